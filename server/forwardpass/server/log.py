"""One line an event: JSON for machines, plain for people."""

import logging
import sys

import structlog


def configure(*, level: str, form: str) -> None:
    """Sends every line of the process to standard error.

    Args:
        level: "debug", "info", "warning" or "error".
        form: "json", "plain", or "auto" for plain on a terminal and JSON elsewhere.
    """
    plain = form == "plain" or (form == "auto" and sys.stderr.isatty())
    threshold = logging.getLevelNamesMapping()[level.upper()]
    renderers: list[structlog.types.Processor] = (
        [structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())]
        if plain
        else [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    )
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *renderers,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
