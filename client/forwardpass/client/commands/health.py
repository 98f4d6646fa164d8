"""`forwardpass health`: whether the server, or one model, serves."""

import typer

from forwardpass.client.commands.connection import Connection
from forwardpass.client.commands.display import print_json
from forwardpass.client.commands.exit_code import UNAVAILABLE


def run(connection: Connection, model: str | None, *, as_json: bool) -> None:
    with connection.open() as client:
        serving = client.health(model)
    status = "SERVING" if serving else "NOT_SERVING"
    if as_json:
        print_json({"status": status})
    else:
        typer.echo(status)
    if not serving:
        raise typer.Exit(UNAVAILABLE)
