"""Whose work the images hold may be passed on, by what the packages themselves state."""

import re
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, metadata

import pytest

from .lock_files import IMAGES, read

# In SPDX's names; all let one pass the work on, changed or not, inside of something else.
ALLOWED = {
    *("0BSD", "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "CC0-1.0", "ISC", "MIT", "MIT-0"),
    *("MIT-CMU", "PSF-2.0", "Zlib"),
}
# What older metadata say instead.
SPDX = {
    "3-Clause BSD License": "BSD-3-Clause",
    "License :: OSI Approved :: Apache Software License": "Apache-2.0",
    "License :: OSI Approved :: BSD License": "BSD-3-Clause",
    "License :: OSI Approved :: ISC License (ISCL)": "ISC",
    "License :: OSI Approved :: MIT License": "MIT",
}
# server-cuda.lock holds NVIDIA's libraries, whose licence is NVIDIA's own.
FREE = [name for name in IMAGES if name != "server-cuda.lock"]


def licences(expression: str | None, classifiers: list[str], text: str | None) -> Iterator[str]:
    """Yields the licences that metadata name, the newest way of stating them first."""
    if expression:
        yield from re.findall(r"\b(?!(?:AND|OR)\b)[\w.+-]+", expression)
        return
    stated = [each for each in classifiers if each.startswith("License ::")] or [text or "none"]
    yield from (SPDX.get(each, each) for each in stated)


@pytest.mark.parametrize("name", FREE)
def test_what_is_installed_of_an_image_has_a_licence_that_is_allowed(name: str) -> None:
    looked_at = 0
    for pin in read(name):
        try:
            stated = metadata(pin.name)
        except PackageNotFoundError:
            # For another platform.
            assert not pin.is_for_this_machine, pin.name
            continue
        # By `get_all`, as newer Pythons warn where what is asked for by its name is not there.
        expression, text = (
            next(iter(stated.get_all(name, [])), None) for name in ("License-Expression", "License")
        )
        found = licences(expression, stated.get_all("Classifier", []), text)
        assert {*found} <= ALLOWED, pin.name
        looked_at += 1
    assert looked_at > 20


@pytest.mark.parametrize(
    ("expression", "classifiers", "text"),
    [
        ("GPL-3.0-only", [], None),
        ("MIT OR GPL-3.0-only", [], None),
        ("Apache-2.0 WITH LLVM-exception", [], None),
        (None, ["License :: OSI Approved :: GNU General Public License (GPL)"], "MIT"),
        (None, ["Topic :: Internet"], "Proprietary"),
        (None, [], None),
    ],
)
def test_any_other_would_be_found(
    expression: str | None, classifiers: list[str], text: str | None
) -> None:
    assert {*licences(expression, classifiers, text)} - ALLOWED
