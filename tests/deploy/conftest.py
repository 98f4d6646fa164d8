"""What the tests of deploy/ share: the tools, and the sources read once."""

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from .sources import BASE, DOCKERFILE, Image, Manifests, render

FindTool = Callable[[str], str]


@pytest.fixture(scope="session")
def find_tool() -> FindTool:
    """Returns where a program is, in this environment or on the path; without it, skips."""

    def find(name: str) -> str:
        # The last is where Debian has nginx, which not everyone's path names.
        places = os.pathsep.join(
            [str(Path(sys.executable).parent), os.environ.get("PATH", ""), "/usr/sbin"]
        )
        found = shutil.which(name, path=places)
        if found is None:
            pytest.skip(f"{name} is not installed")
        return found

    return find


@pytest.fixture(scope="session")
def manifests(find_tool: FindTool) -> Manifests:
    return render(find_tool("kubectl"), BASE)


@pytest.fixture(scope="session")
def image() -> Image:
    return Image.read(DOCKERFILE)
