"""One line an event: JSON for machines, plain for people."""

import atexit
import logging
import sys
from collections.abc import Callable, Sequence

import structlog

from forwardpass.server.process.error_stream import redirect_python
from forwardpass.server.process.log_writer import LogWriter
from forwardpass.server.process.traceback_limit import TracebackLimit

# What writing the last lines may take when the process ends, in seconds.
_LAST_SECONDS = 1.0
# The one that writes, once a process that serves has begun.
_writers: list[LogWriter] = []


def configure(*, level: str, form: str, waits: bool, worker: int | None = None) -> None:
    """Sends every line of the process to standard error.

    Args:
        level: "debug", "info", "warning" or "error".
        form: "json", "plain", or "auto" for plain on a terminal and JSON elsewhere.
        waits: Whether whoever has something to say waits until it is written, and fails where that
            cannot be. Else a thread writes what comes, as it comes, and drops what does not fit; a
            process that serves depends on no reader.
        worker: The number of this worker, which then stands in every line.
    """
    stream = sys.stderr
    plain = form == "plain" or (form == "auto" and stream.isatty())
    threshold = logging.getLevelNamesMapping()[level.upper()]
    renderers: list[structlog.types.Processor] = (
        # A traceback that shows variables would show what callers sent.
        [
            structlog.dev.ConsoleRenderer(
                colors=stream.isatty(), exception_formatter=structlog.dev.plain_traceback
            )
        ]
        if plain
        else [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    )
    about: list[structlog.types.Processor] = []
    if worker is not None:
        about = [lambda _, __, line: {**line, "worker": worker}]
    processors: list[structlog.types.Processor] = [
        *about,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        TracebackLimit(),
        *renderers,
    ]
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        # A line is one write, also without buffers: workers share standard error.
        logger_factory=structlog.WriteLoggerFactory(stream) if waits else _detach(processors),
        cache_logger_on_first_use=True,
    )


def dropped() -> int:
    """Returns how many lines of this process were not written."""
    return sum(writer.dropped for writer in _writers)


def finish() -> None:
    """Writes what is left, as the process is about to end."""
    for writer in _writers:
        writer.close(_LAST_SECONDS)


class _QueueLogger:
    """What structlog gives each line to, once it is rendered."""

    def __init__(self, writer: LogWriter) -> None:
        self._put = writer.put

    def msg(self, line: str) -> None:
        self._put(_encoded(line))

    debug = info = warning = error = critical = msg


def _detach(processors: Sequence[structlog.types.Processor]) -> Callable[..., _QueueLogger]:
    """Has a thread write to standard error from now on; returns what makes loggers."""
    # Told at every level: lines of any may be missing.
    notices = structlog.wrap_logger(
        structlog.testing.ReturnLogger(),
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(logging.NOTSET),
    )
    writer = LogWriter(
        sys.stderr.fileno(), lambda lines: _encoded(notices.warning("log_dropped", lines=lines))
    )
    _writers.append(writer)
    redirect_python(writer)
    # After the traceback of what may have ended the process.
    atexit.register(finish)
    return lambda *_: _QueueLogger(writer)


def _encoded(line: str) -> bytes:
    return line.encode(errors="backslashreplace")
