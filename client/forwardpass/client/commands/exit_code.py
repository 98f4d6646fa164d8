"""How a failed command ends: one sentence for people, one number for programs."""

import sys

from forwardpass.client.errors import (
    AccessDenied,
    ForwardpassError,
    InvalidInput,
    InvalidSetting,
    MessageTooLarge,
    ModelNotFound,
    Overloaded,
    TimedOut,
    Unavailable,
    WrongTask,
)
from forwardpass.client.jobs.errors import JobError

FAILED = 1
USAGE = 2
NOT_FOUND = 3
UNAVAILABLE = 4
OVERLOADED = 5
DENIED = 6
# The run ended, but some of its inputs could not be read.
PARTIAL = 7

_CODES: dict[type[ForwardpassError], int] = {
    InvalidInput: USAGE,
    InvalidSetting: USAGE,
    WrongTask: USAGE,
    MessageTooLarge: USAGE,
    ModelNotFound: NOT_FOUND,
    Unavailable: UNAVAILABLE,
    TimedOut: UNAVAILABLE,
    Overloaded: OVERLOADED,
    AccessDenied: DENIED,
}


def explain(error: Exception) -> int:
    """Prints an expected error to standard error, and returns the exit code for it.

    Any other error is a fault of ours, and raised again.
    """
    if isinstance(error, ForwardpassError):
        quote = f" (request {error.request_id})" if error.request_id else ""
        sys.stderr.write(f"error: {error.message}{quote}\n")
        return _CODES.get(type(error), FAILED)
    if isinstance(error, OSError | JobError):
        sys.stderr.write(f"error: {error}\n")
        return USAGE
    raise error
