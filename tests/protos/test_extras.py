"""What the programs say where an extra is not installed."""

import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from forwardpass.extras import EXTRAS

# Hides modules as if they had never been installed.
HIDING = """
import importlib.abc, sys

class Hidden(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.partition(".")[0] in {hidden!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Hidden())
sys.argv[0] = {program!r}
from {module} import main
main()
"""
MODULES = {
    "forwardpass": "forwardpass.client.cli",
    "forwardpass-serve": "forwardpass.server.cli",
    "forwardpass-train": "forwardpass.trainer.cli",
}


def run(
    program: str, hidden: tuple[str, ...], *arguments: object
) -> subprocess.CompletedProcess[str]:
    code = HIDING.format(hidden=set(hidden), program=program, module=MODULES[program])
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize(
    ("program", "extra", "arguments", "code"),
    [
        ("forwardpass-serve", "server", ["FOLDER"], 1),
        ("forwardpass-serve", "server", ["check", "FOLDER"], 1),
        ("forwardpass-serve", "server", ["--help"], 1),
        ("forwardpass-train", "trainer", ["run", "digits-mlp"], 1),
        ("forwardpass-train", "trainer", ["quantize", "digits-mlp"], 1),
        ("forwardpass-train", "trainer", ["zoo"], 1),
        ("forwardpass", "embed", ["embed", "FOLDER", "--model", "m", "--out", "x.parquet"], 2),
    ],
)
def test_a_missing_extra_is_named_with_the_way_to_install_it(
    tmp_path: Path, program: str, extra: str, arguments: list[str], code: int
) -> None:
    given = [str(tmp_path) if argument == "FOLDER" else argument for argument in arguments]
    ended = run(program, EXTRAS[extra], *given)
    told = re.escape(
        f" is not installed; it comes with the extra '{extra}': in the root of a clone, "
        f"pip install '.[{extra}]'\n"
    )
    assert re.fullmatch(rf"{program}: error: the module '\w+'{told}", ended.stderr), ended.stderr
    assert (ended.returncode, ended.stdout) == (code, "")


# What watches, and what reads certificates, is imported where it is asked for.
@pytest.mark.parametrize("module", sorted({*EXTRAS["server"]} - {"cryptography", "watchfiles"}))
def test_one_module_of_the_server_is_missed_before_it_listens(tmp_path: Path, module: str) -> None:
    ended = run("forwardpass-serve", (module,), tmp_path, "--port", 0, "--metrics-port", 0)
    assert ended.returncode == 1
    assert f"the module '{module}' is not installed" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_what_needs_no_extra_works_without() -> None:
    for program in ("forwardpass", "forwardpass-train"):
        ended = run(program, (*EXTRAS["trainer"], *EXTRAS["embed"]), "--help")
        assert (ended.returncode, ended.stderr) == (0, "")
    ended = run("forwardpass-train", EXTRAS["trainer"], "list")
    assert (ended.returncode, ended.stderr) == (0, "")


def test_another_module_that_is_missing_is_a_fault_and_shows_its_trace(tmp_path: Path) -> None:
    ended = run("forwardpass-serve", ("tomllib",), tmp_path)
    assert "Traceback" in ended.stderr
    assert "extra" not in ended.stderr.splitlines()[-1]


@pytest.mark.parametrize("extra", EXTRAS)
def test_the_table_is_that_of_the_project_file(extra: str) -> None:
    project = tomllib.loads(
        (Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8")
    )["project"]
    installed = packages_distributions()

    def names(requirements: list[str]) -> set[str]:
        return {re.split(r"[^\w.-]", text)[0].lower().replace("_", "-") for text in requirements}

    needed = names(project["optional-dependencies"][extra]) - names(project["dependencies"])
    # Of ray, which tests do without, the package is called like the module.
    packages = {
        module: {name.lower().replace("_", "-") for name in installed.get(module, [module])}
        for module in EXTRAS[extra]
    }
    assert set().union(*packages.values()) & needed == needed
    for module in EXTRAS[extra]:
        assert packages[module] & needed, module
