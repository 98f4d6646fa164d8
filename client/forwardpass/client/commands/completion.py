"""What a shell offers for the name of a model: those of the server that is to be called."""

import logging
from dataclasses import fields
from typing import Any

import typer

from forwardpass.client.commands.connection import Connection

# Somebody waits at a prompt.
_SECONDS = 1.0


def complete_model(context: typer.Context, incomplete: str) -> list[str]:
    """Returns the names of the server's models that begin so; none where no server answers."""
    given: dict[str, Any] = {one.name: context.params.get(one.name) for one in fields(Connection)}
    given |= {"timeout": _SECONDS, "connections": 1}
    logging.getLogger("forwardpass.client").disabled = True
    try:
        with Connection(**given).open() as client:
            names = {summary.name for summary in client.models()}
    except Exception:  # noqa: BLE001 - whatever it is, a prompt is no place to say so
        return []
    return sorted(name for name in names if name.startswith(incomplete))
