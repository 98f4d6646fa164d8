"""Every promise of SECURITY.md names tests, and they are there."""

import ast
import re
from collections.abc import Iterator

from .lock_files import ROOT

PAGE = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
NAMED = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", PAGE)


def promises() -> Iterator[tuple[str, str]]:
    """Yields each promise and what holds it."""
    section = PAGE.split("## What is promised")[1].split("\n## ")[0]
    for line in section.splitlines():
        if line.startswith("| ") and not line.startswith("| promise |"):
            promise, held = line.strip("| ").split(" | ")
            yield promise, held


def missing(named: list[tuple[str, str]]) -> list[str]:
    """Returns which tests there are not."""
    return [
        f"{path}::{name}"
        for path, name in named
        if not (ROOT / path).exists()
        or name
        not in {
            node.name
            for node in ast.parse((ROOT / path).read_text(encoding="utf-8")).body
            if isinstance(node, ast.FunctionDef)
        }
    ]


def test_every_promise_names_tests() -> None:
    assert len([*promises()]) > 30
    for promise, held in promises():
        assert re.fullmatch(
            r"`tests/[\w/]+\.py::test_\w+`(, `tests/[\w/]+\.py::test_\w+`)*.*", held
        )
        assert promise.endswith("."), promise


def test_every_named_test_is_there() -> None:
    assert len(NAMED) > 50
    assert not missing(NAMED)


def test_one_that_is_not_there_would_be_found() -> None:
    here = "tests/release/test_security.py"
    asked = [(here, "missing"), (here, "test_nothing"), ("tests/none.py", "test_nothing")]
    assert missing(asked) == [f"{here}::test_nothing", "tests/none.py::test_nothing"]
