"""The command line: what can be typed. What a command does is in `commands`, loaded when it runs,
so that help and completion are quick.
"""

import os
import sys
from importlib.metadata import version as package_version
from pathlib import Path
from typing import Annotated

import typer

from forwardpass.client.commands.completion import complete_model
from forwardpass.client.commands.connection import Connection
from forwardpass.extras import needing

app = typer.Typer(
    name="forwardpass",
    help="Calls the models that a forwardpass server serves.",
    no_args_is_help=True,
    # Our own errors are sentences for people; any other one is a fault and shows its trace.
    pretty_exceptions_enable=False,
)

_CONNECTION = "Connection"
Server = Annotated[
    str,
    typer.Option(
        envvar="FORWARDPASS_SERVER",
        metavar="HOST:PORT",
        help="The server to call; unix:/PATH for a unix-domain socket.",
        rich_help_panel=_CONNECTION,
    ),
]
Timeout = Annotated[
    float,
    typer.Option(
        min=0.001,
        metavar="SECONDS",
        help="The longest a call may take, retries included.",
        rich_help_panel=_CONNECTION,
    ),
]
TlsCa = Annotated[
    Path | None,
    typer.Option(
        exists=True,
        dir_okay=False,
        metavar="FILE",
        help="Use TLS, and trust the root certificates in this PEM file.",
        rich_help_panel=_CONNECTION,
    ),
]
Token = Annotated[
    str | None,
    typer.Option(
        envvar="FORWARDPASS_TOKEN",
        metavar="TOKEN",
        help="The bearer token. Others on this machine can see it here, and not in the variable.",
        rich_help_panel=_CONNECTION,
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead, for programs.")]
ModelName = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        show_default=False,
        help="The model, or MODEL:3 for a version, or MODEL:stable for a label.",
        autocompletion=complete_model,
    ),
]
Invert = Annotated[
    bool,
    typer.Option(
        "--invert",
        help="Turn dark into bright first, for a model of bright strokes on a dark ground.",
    ),
]
_SERVER = "127.0.0.1:8001"
_TIMEOUT = 30.0


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"forwardpass {package_version('forwardpass')}")
        raise typer.Exit


@app.callback()
def _root(
    _version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    pass


@app.command(epilog="Example: forwardpass models mnist-cnn")
def models(
    *,
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="MODEL",
            show_default=False,
            help="Tell everything about this model (or MODEL:VERSION) instead.",
            autocompletion=complete_model,
        ),
    ] = None,
    json: Json = False,
    server: Server = _SERVER,
    timeout: Timeout = _TIMEOUT,
    tls_ca: TlsCa = None,
    token: Token = None,
) -> None:
    """Lists the models, or tells everything about one: card, signature, metrics, golden result."""
    from forwardpass.client.commands import models as command

    command.run(Connection(server, timeout, tls_ca, token), name, as_json=json)


@app.command(epilog="Example: forwardpass predict mnist-cnn seven.png two.jpg --top-k 3")
def predict(
    *,
    model: ModelName,
    inputs: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="INPUT",
            show_default=False,
            help="PNG or JPEG files; one .npy for a model with one input; .npz with an array for "
            "each input; .json with an object of lists by input name, or one list; or NAME=FILE.npy"
            " for one input.",
        ),
    ] = None,
    text: Annotated[
        list[str] | None, typer.Option(help="A text, for a text model; may be repeated.")
    ] = None,
    mail: Annotated[
        list[typer.FileBinaryRead] | None,
        typer.Option(
            metavar="FILE",
            help="An e-mail, of which a text model gets the subject and what a person reads of the "
            "body; - for standard input; may be repeated.",
        ),
    ] = None,
    invert: Invert = False,
    top_k: Annotated[
        int | None,
        typer.Option(
            min=0, show_default="3 where the model has labels", help="Name this many classes."
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE.npz", help="Save the outputs by name.")
    ] = None,
    pictures: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Save image outputs there: ROW-OUTPUT.png."),
    ] = None,
    json: Json = False,
    server: Server = _SERVER,
    timeout: Timeout = _TIMEOUT,
    tls_ca: TlsCa = None,
    token: Token = None,
) -> None:
    """Runs a model, and prints its classes or its outputs."""
    from forwardpass.client.commands import predict as command

    command.run(
        Connection(server, timeout, tls_ca, token),
        model,
        inputs or [],
        text or [],
        mail or [],
        invert=invert,
        top_k=top_k,
        out=out,
        pictures=pictures,
        as_json=json,
    )


@app.command(epilog="Example: forwardpass embed photos/ --model mnist-resnet --out vectors.parquet")
def embed(
    *,
    inputs: Annotated[
        list[Path],
        typer.Argument(
            metavar="INPUT",
            exists=True,
            show_default=False,
            help="Folders (searched to the bottom) and JPEG or PNG files; .txt files with a text "
            "a line; or one .npy with a row each.",
        ),
    ],
    model: Annotated[
        str,
        typer.Option(
            show_default=False,
            help="The model, or MODEL:VERSION.",
            autocompletion=complete_model,
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Save to .parquet (path, label, vector, error) or .npy (vectors, NaN for errors).",
        ),
    ] = None,
    invert: Invert = False,
    normalize: Annotated[
        bool, typer.Option("--normalize", help="Scale each vector to length 1.")
    ] = False,
    neighbours: Annotated[
        int, typer.Option(min=0, metavar="K", help="Print the K nearest of eight of the rows.")
    ] = 0,
    neighbours_grid: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.png",
            help="Draw them: in each row an image and its K nearest; K is 5 unless given.",
        ),
    ] = None,
    json: Json = False,
    server: Server = _SERVER,
    timeout: Timeout = _TIMEOUT,
    tls_ca: TlsCa = None,
    token: Token = None,
) -> None:
    """Turns images or texts into vectors. An unreadable image becomes a row with its error."""
    from forwardpass.client.commands import embed as command

    command.run(
        Connection(server, timeout, tls_ca, token),
        inputs,
        model,
        command.Options(
            out, normalize, neighbours or (5 if neighbours_grid else 0), neighbours_grid, invert
        ),
        as_json=json,
    )


@app.command(epilog="Example: forwardpass generate mnist-gan --count 64 --seed 7 --out grid.png")
def generate(
    *,
    model: ModelName,
    count: Annotated[int, typer.Option(min=1, max=1024, help="How many samples.")] = 1,
    seed: Annotated[
        int | None,
        typer.Option(
            min=0, max=2**64 - 1, show_default="drawn and told", help="Makes it repeatable."
        ),
    ] = None,
    class_: Annotated[
        str | None,
        typer.Option("--class", metavar="CLASS", help="Draw this class, by label or index."),
    ] = None,
    prompt: Annotated[str | None, typer.Option(help="The text to go on from.")] = None,
    temperature: Annotated[
        float | None,
        typer.Option(show_default="1", help="How freely to choose text, in (0, 10]."),
    ] = None,
    length: Annotated[
        int | None, typer.Option(min=1, max=4096, show_default="256", help="Characters of text.")
    ] = None,
    stream: Annotated[
        bool, typer.Option("--stream", help="Print a text while it is being written.")
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Save a .png picture of all samples, or a .npy array."),
    ] = None,
    json: Json = False,
    server: Server = _SERVER,
    timeout: Timeout = _TIMEOUT,
    tls_ca: TlsCa = None,
    token: Token = None,
) -> None:
    """Draws samples from a generator; texts are printed."""
    from forwardpass.client.commands import generate as command

    command.run(
        Connection(server, timeout, tls_ca, token),
        model,
        command.Options(count, seed, class_, prompt, temperature, length),
        stream=stream,
        out=out,
        as_json=json,
    )


@app.command(epilog="Example: forwardpass health mnist-cnn && echo ready")
def health(
    *,
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="MODEL",
            show_default=False,
            help="Ask about this model only.",
            autocompletion=complete_model,
        ),
    ] = None,
    json: Json = False,
    server: Server = _SERVER,
    timeout: Timeout = _TIMEOUT,
    tls_ca: TlsCa = None,
    token: Token = None,
) -> None:
    """Prints SERVING (exit code 0) or NOT_SERVING (exit code 4)."""
    from forwardpass.client.commands import health as command

    command.run(Connection(server, timeout, tls_ca, token), model, as_json=json)


def main() -> None:
    """Runs the command line; exits with the code that `exit_code` gives an error."""
    # gRPC's core logs what we say in our own words.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    try:
        # 2, as for any other file that cannot be written.
        with needing("embed", "forwardpass", code=2):
            app()
    except Exception as error:  # noqa: BLE001 - an unexpected one is raised again
        from forwardpass.client.commands.exit_code import explain

        sys.exit(explain(error))
