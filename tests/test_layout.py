"""The rules of the layout: who may import whom, and where no file may lie."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PARTS = ("protos", "server", "trainer", "client")
SOURCES = sorted(
    path
    for part in PARTS
    for path in (ROOT / part / "forwardpass").rglob("*.py")
    if "_pb2" not in path.name
)
# The namespaces that live under protos/ may be used by every part.
SHARED = (
    "forwardpass.v1",
    "forwardpass.wire",
    "forwardpass.artefact",
    "forwardpass.mail",
    "forwardpass.pixels",
)


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            assert node.module is not None
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def imported_by(path: Path) -> set[str]:
    return {name.split(".")[0] for name in imports(path)}


def test_sources_are_found() -> None:
    assert len(SOURCES) > 50


@pytest.mark.parametrize("part", PARTS)
def test_a_part_imports_itself_and_the_contract_only(part: str) -> None:
    allowed = SHARED if part == "protos" else (*SHARED, f"forwardpass.{part}")
    for path in SOURCES:
        if path.is_relative_to(ROOT / part):
            for name in imports(path):
                if name.startswith("forwardpass"):
                    assert name.startswith(allowed), f"{path.relative_to(ROOT)} imports {name}"


@pytest.mark.parametrize(
    ("library", "places"),
    [
        ("torch", ["trainer/"]),
        ("lightning_fabric", ["trainer/"]),
        ("onnx", ["trainer/"]),
        ("onnxruntime", ["trainer/", "server/forwardpass/server/onnx/"]),
        (
            "grpc",
            [
                "client/",
                "server/forwardpass/server/transport/",
                "server/forwardpass/server/app.py",
            ],
        ),
        ("prometheus_client", ["server/"]),
    ],
)
def test_a_library_is_imported_where_it_belongs(library: str, places: list[str]) -> None:
    for path in SOURCES:
        name = path.relative_to(ROOT).as_posix()
        if library in imported_by(path):
            assert any(name.startswith(place) for place in places), f"{name} imports {library}"


def test_no_source_unpickles_or_evaluates() -> None:
    forbidden = {"pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib"}
    for path in SOURCES:
        assert not imported_by(path) & forbidden, path
        text = path.read_text(encoding="utf-8")
        assert "allow_pickle=True" not in text, path
        assert "weights_only=False" not in text, path


def test_the_namespace_has_no_init_file() -> None:
    # One such file would hide the parts that lie in the other folders.
    assert not list(ROOT.glob("*/forwardpass/__init__.py"))


def test_every_part_is_typed() -> None:
    packages = [p for part in PARTS for p in (ROOT / part / "forwardpass").iterdir() if p.is_dir()]
    written = [p for p in packages if (p / "__init__.py").exists()]
    assert len(written) == len(PARTS) + 3
    assert all((p / "py.typed").exists() for p in written)


def test_third_party_imports_are_declared() -> None:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    declared = [*project["dependencies"]]
    for extra in project["optional-dependencies"].values():
        declared += extra
    known = {
        requirement.split(">")[0].split("=")[0].replace("-", "_").lower()
        for requirement in declared
    }
    # Where the module has another name than its distribution.
    known |= {
        "google",
        "grpc",
        "grpc_health",
        "grpc_reflection",
        "PIL",
        "sklearn",
        "lightning_fabric",
    }
    # What these bring with them by contract.
    known |= {"pydantic", "forwardpass", "click"}
    for path in SOURCES:
        outside = imported_by(path) - set(sys.stdlib_module_names)
        assert outside <= known, f"{path.relative_to(ROOT)} imports {outside - known}"
