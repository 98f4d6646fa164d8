"""Which release of the distribution this is."""

from functools import cache
from importlib.metadata import PackageNotFoundError, version

DISTRIBUTION = "forwardpass"


@cache
def release() -> str:
    """Returns the version that is installed; "unknown" where it runs from its sources."""
    try:
        return version(DISTRIBUTION)
    except PackageNotFoundError:
        return "unknown"
