"""Imports that bring less along than they would by themselves."""

import sys


def import_structlog() -> None:
    """Imports structlog without rich, which it takes along where that is installed.

    It would be for tracebacks on a terminal, which show what variables hold, so what callers sent,
    and takes 60 ms of every start.
    """
    modules = sys.modules
    if "rich" in modules:
        return
    # What stands there as None cannot be imported.
    modules["rich"] = None  # type: ignore[assignment]
    try:
        import structlog  # noqa: F401
    finally:
        del modules["rich"]
