"""An end of the process that nothing can hold up."""

import os
import threading

# What stopping may take beyond the time that accepted calls have, in seconds.
STOPPING_SECONDS = 5.0
_LATE = 1


def exit_within(seconds: float) -> None:
    """Ends the process after this time, if it has not ended by then: a run may hang."""
    timer = threading.Timer(seconds, os._exit, (_LATE,))
    timer.daemon = True
    timer.start()
