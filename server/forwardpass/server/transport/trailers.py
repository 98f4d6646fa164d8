"""What follows the last message of a call that failed."""

from functools import lru_cache

from forwardpass.wire import CODES, DETAILS_KEY, PUSHBACK_KEY, Failure, Reason

# The codes that clients retry: only these carry a pushback.
_RETRIED = {CODES[Reason.QUEUE_FULL], CODES[Reason.SHUTTING_DOWN]}


# Under overload one refusal is like the other, and to make its details takes longer than the rest.
@lru_cache(64)
def trailing_metadata(failure: Failure) -> tuple[tuple[str, str | bytes], ...]:
    """Returns the details of a failure, and when to try again where that may help."""
    details = (DETAILS_KEY, failure.to_details())
    if failure.code not in _RETRIED:
        return (details,)
    return details, (PUSHBACK_KEY, _pushback(failure))


def _pushback(failure: Failure) -> str:
    """Milliseconds to wait, or -1 for never; not 0, on which grpcio 1.85 waits for its deadline."""
    if failure.retry_after is None:
        return "-1"
    return str(max(1, round(failure.retry_after * 1000)))
