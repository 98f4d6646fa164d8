"""The lock files of deploy/docker as values."""

import re
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy/docker"
# Lock file -> the extras that it is for.
IMAGES = {
    "server.lock": ("server",),
    "server-embed.lock": ("server", "embed"),
    "server-cuda.lock": ("server-cuda",),
}
BUILD = "build.lock"


@dataclass(frozen=True)
class Pin:
    """A package of a lock file.

    Attributes:
        requirement: Its name, its version, and where it is installed at all.
        digests: SHA-256 of the files that may be taken for it.
    """

    requirement: Requirement
    digests: list[str]

    @property
    def name(self) -> str:
        """The name as registries write it."""
        return canonicalize_name(self.requirement.name)

    @property
    def version(self) -> str:
        """The one version."""
        (specifier,) = self.requirement.specifier
        assert specifier.operator == "=="
        return specifier.version

    @property
    def is_for_this_machine(self) -> bool:
        """Whether it is installed here."""
        marker = self.requirement.marker
        return marker is None or marker.evaluate()


def read(name: str) -> list[Pin]:
    """Returns the packages of a lock file, in their order."""
    text = (FOLDER / name).read_text(encoding="utf-8")
    stated = re.sub(r"^ *#.*\n", "", text, flags=re.MULTILINE).replace("\\\n", "")
    pins = []
    for line in stated.splitlines():
        requirement, *digests = line.split(" --hash=sha256:")
        pins.append(Pin(Requirement(requirement), [digest.strip() for digest in digests]))
    return pins
