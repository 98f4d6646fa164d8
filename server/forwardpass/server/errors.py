"""Why a call is refused, raised where it is known and turned into a status once, in `Call`."""

import difflib
from collections.abc import Iterable, Mapping

from forwardpass.wire import Failure, Reason

_SHOWN = 64


class CallError(Exception):
    """A call that fails with a reason its caller is told.

    Args:
        reason: Why, for programs.
        message: What was wrong, what was expected, what to do.
        field: The request field at fault, such as "inputs.image.shape".
        retry_after: Seconds after which the same call may succeed.
        facts: The facts in the message, by name.
    """

    def __init__(
        self,
        reason: Reason,
        message: str,
        *,
        field: str = "",
        retry_after: float | None = None,
        facts: Mapping[str, object] | None = None,
    ) -> None:
        super().__init__(message)
        metadata = {key: str(value) for key, value in (facts or {}).items()}
        self.failure = Failure(reason, message, field, metadata, retry_after)


class InvalidInput(CallError):
    """The request itself is wrong: sending it again will not help."""

    def __init__(
        self, message: str, *, field: str = "", expected: object = None, got: object = None
    ) -> None:
        facts = {} if expected is None else {"expected": expected, "got": got}
        super().__init__(Reason.INVALID_INPUT, message, field=field, facts=facts)


class RunTooLarge(CallError):
    """A run took more memory than runs may have; asked for again, it will again."""

    def __init__(self, message: str) -> None:
        super().__init__(Reason.QUEUE_FULL, message, field="inputs")


class RunError(RuntimeError):
    """ONNX Runtime failed in a run; the message is its own sentence.

    Whether the values of the run or the model are at fault is not known by itself.
    """

    def blame_values(self) -> InvalidInput:
        """Returns what the caller is told where the values are at fault."""
        return InvalidInput(f"the model refuses the values: {self}", field="inputs")


class Abandoned(Exception):
    """Work was given up because the call that it was for has ended; nobody is told."""


def quote(text: str) -> str:
    """Returns a caller's text as it may be shown: escaped, and not much of it."""
    return repr(text) if len(text) <= _SHOWN else f"{text[:_SHOWN]!r}…"


def nearest(text: str, known: Iterable[str]) -> str:
    """Returns " (did you mean …?)" where something known is close to the text, else nothing."""
    close = difflib.get_close_matches(text[:256], list(known), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""
