"""One line an event: JSON for machines, plain for people."""

import logging
import sys

import structlog


def configure(*, level: str, form: str, worker: int | None = None) -> None:
    """Sends every line of the process to standard error.

    Args:
        level: "debug", "info", "warning" or "error".
        form: "json", "plain", or "auto" for plain on a terminal and JSON elsewhere.
        worker: The number of this worker, which then stands in every line.
    """
    plain = form == "plain" or (form == "auto" and sys.stderr.isatty())
    threshold = logging.getLevelNamesMapping()[level.upper()]
    renderers: list[structlog.types.Processor] = (
        [structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())]
        if plain
        else [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    )
    about: list[structlog.types.Processor] = []
    if worker is not None:
        about = [lambda _, __, line: {**line, "worker": worker}]
    structlog.configure(
        processors=[
            *about,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *renderers,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        # A line is one write, also without buffers: workers share standard error.
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
