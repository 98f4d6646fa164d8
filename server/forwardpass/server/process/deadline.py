"""An end of the process that nothing can hold up."""

import os
import threading

import structlog

from forwardpass.server.process import log

# What stopping may take beyond the time that accepted calls have, in seconds.
STOPPING_SECONDS = 5.0
_LATE = 1
_log = structlog.get_logger()


class StopError(RuntimeError):
    """Something did not end in time and was cut off; the message says what."""


def exit_within(seconds: float) -> None:
    """Ends the process after this time, if it has not ended by then: a run may hang."""
    timer = threading.Timer(seconds, _exit, (seconds,))
    timer.daemon = True
    timer.start()


def _exit(seconds: float) -> None:
    _log.error("not_stopped_in_time", seconds=seconds)
    log.finish()
    os._exit(_LATE)
