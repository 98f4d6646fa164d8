"""The package's one door, and how little it loads."""

import subprocess
import sys
from importlib.metadata import version

import forwardpass.client

HEAVY = ("PIL", "onnxruntime", "pyarrow", "rich", "torch", "typer")


def loaded_after(statement: str) -> set[str]:
    code = f"import sys; {statement}; print(*{{name.split('.')[0] for name in sys.modules}})"
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    return set(run.stdout.split())


def test_every_name_is_there_and_listed() -> None:
    public = forwardpass.client.__all__
    assert public == sorted(public)
    assert set(public) == set(forwardpass.client._HOME_OF) == set(dir(forwardpass.client))
    for name in public:
        found = getattr(forwardpass.client, name)
        assert found.__name__ == name
        # What is said of images is the same on both ends.
        assert found.__module__.startswith(("forwardpass.client.", "forwardpass.wire."))
    assert not hasattr(forwardpass.client, "nothing_of_this_name")


def test_the_client_loads_nothing_heavy() -> None:
    loaded = loaded_after("from forwardpass.client import *")
    assert "grpc" in loaded
    assert not loaded & set(HEAVY)


def test_help_loads_neither_grpc_nor_numpy() -> None:
    loaded = loaded_after("import forwardpass.client.cli")
    assert "typer" in loaded
    assert not loaded & {"grpc", "numpy", "google", "PIL", "pyarrow", "onnxruntime", "torch"}


def test_version() -> None:
    run = subprocess.run(
        [sys.executable, "-c", "from forwardpass.client.cli import main; main()", "--version"],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert run.stdout == f"forwardpass {version('forwardpass')}\n"
