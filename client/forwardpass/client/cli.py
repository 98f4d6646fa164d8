"""The command line: what can be typed. What a command does is in `commands`, loaded when it runs,
so that help and completion are quick.
"""

import os
import sys
from enum import StrEnum
from importlib.metadata import version as package_version
from pathlib import Path
from typing import Annotated

import typer

from forwardpass.client.commands.completion import complete_model
from forwardpass.client.commands.connection import Connection, with_connection
from forwardpass.extras import needing

app = typer.Typer(
    name="forwardpass",
    help="Calls the models that a forwardpass server serves.",
    no_args_is_help=True,
    # Our own errors are sentences for people; any other one is a fault and shows its trace.
    pretty_exceptions_enable=False,
)

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
_HERE_OR_SERVER = "in this process where the model is here, else 127.0.0.1:8001"
JobArgument = Annotated[
    Path,
    typer.Argument(
        metavar="DIR", exists=True, file_okay=False, show_default=False, help="A job's folder."
    ),
]
_SOURCES = "Sources"
_JOB = "Jobs"
_PICTURES = "Pictures"
_ON_CARD = "as the model's card says"


class Engine(StrEnum):
    """Who does the work of a job."""

    LOCAL = "local"
    RAY = "ray"


class MapMethod(StrEnum):
    """How vectors are laid on a plane."""

    TSNE = "tsne"
    PCA = "pca"


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
@with_connection()
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
    connection: Connection,
) -> None:
    """Lists the models, or tells everything about one: card, signature, metrics, golden result."""
    from forwardpass.client.commands import models as command

    command.run(connection, name, as_json=json)


@app.command(epilog="Example: forwardpass predict mnist-cnn seven.png two.jpg --top-k 3")
@with_connection()
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
    connection: Connection,
) -> None:
    """Runs a model, and prints its classes or its outputs."""
    from forwardpass.client.commands import predict as command

    command.run(
        connection,
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


@app.command(
    epilog="Example: forwardpass embed photos/ --model resnet50-imagenet --out photos-vectors, and "
    "then forwardpass embed --check photos-vectors"
)
@with_connection(_HERE_OR_SERVER)
def embed(
    *,
    inputs: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="SOURCE",
            show_default=False,
            help="Folders (searched to the bottom), patterns such as 'photos/**/*.jpg', and files: "
            "JPEG, PNG, WebP, GIF, TIFF or BMP; .tar shards of them; .txt with a text a line; .npy "
            "or .npz with a row each; or .parquet with --column.",
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            show_default=False,
            help="The model, or MODEL:VERSION. Without --server a folder, such as models/MODEL, or "
            "the model of this name in models/, runs in this process.",
            autocompletion=complete_model,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR|FILE",
            help="A folder for a job, which goes on when the command is repeated; or a small "
            "file: .parquet, or .npy (vectors alone, NaN for errors).",
        ),
    ] = None,
    files_from: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            allow_dash=True,
            help="Take the files that are listed here, one a line or each ended by a NUL; - for "
            "standard input.",
            rich_help_panel=_SOURCES,
        ),
    ] = None,
    column: Annotated[
        str | None,
        typer.Option(
            help="The column of Parquet files: pictures, texts or rows.", rich_help_panel=_SOURCES
        ),
    ] = None,
    follow: Annotated[
        bool, typer.Option(help="Whether to follow links.", rich_help_panel=_SOURCES)
    ] = True,
    invert: Invert = False,
    normalize: Annotated[
        bool, typer.Option("--normalize", help="Scale each vector to length 1.")
    ] = False,
    resize: Annotated[
        str | None,
        typer.Option(
            metavar="stretch|crop",
            show_default=_ON_CARD,
            help="Stretch pictures to the model's size, or cut off what its ratio leaves over.",
            rich_help_panel=_PICTURES,
        ),
    ] = None,
    crop: Annotated[
        float | None,
        typer.Option(
            metavar="SHARE",
            show_default=_ON_CARD,
            help="Of crop which share to keep: 0.875 is 224 pixels of 256.",
            rich_help_panel=_PICTURES,
        ),
    ] = None,
    filter_: Annotated[
        str | None,
        typer.Option(
            "--filter",
            metavar="FILTER",
            show_default=_ON_CARD,
            help="How to mix pixels: nearest, box, bilinear, bicubic or lanczos.",
            rich_help_panel=_PICTURES,
        ),
    ] = None,
    background: Annotated[
        str | None,
        typer.Option(
            metavar="RRGGBB",
            show_default=_ON_CARD,
            help="What to lay transparent pictures on.",
            rich_help_panel=_PICTURES,
        ),
    ] = None,
    draft: Annotated[
        bool | None,
        typer.Option(
            show_default=_ON_CARD,
            help="Whether to decode large JPEG files at a fraction of their size: several times as "
            "fast, with slightly other pixels.",
            rich_help_panel=_PICTURES,
        ),
    ] = None,
    retry_errors: Annotated[
        bool,
        typer.Option(
            "--retry-errors", help="Embed again only what has errors.", rich_help_panel=_JOB
        ),
    ] = False,
    part: Annotated[
        str | None,
        typer.Option(
            metavar="I/N",
            envvar="FORWARDPASS_PART",
            help="Do one of N parts, I from 0 to N-1, in a folder of its own in DIR.",
            rich_help_panel=_JOB,
        ),
    ] = None,
    engine: Annotated[
        Engine, typer.Option(help="Who does the work.", rich_help_panel=_JOB)
    ] = Engine.LOCAL,
    wait: Annotated[
        str,
        typer.Option(
            metavar="TIME",
            help="How long a server may be away or busy: 90s, 10m, 2h.",
            rich_help_panel=_JOB,
        ),
    ] = "10m",
    check: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Read all of a job's folder instead, and say whether it is complete.",
            rich_help_panel=_JOB,
        ),
    ] = None,
    merge: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Make one job there of its parts instead: those in DIR, or the folders named.",
            rich_help_panel=_JOB,
        ),
    ] = None,
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
    connection: Connection,
) -> None:
    """Turns pictures, texts or arrays into vectors: into a folder, by a job that survives being
    killed, or into a file.
    """
    from forwardpass.client.commands import embed_arguments as command

    command.run(
        command.Arguments(
            connection=connection,
            is_served=connection.is_named,
            sources=inputs or [],
            model=model,
            out=out,
            files_from=files_from,
            column=column,
            follow=follow,
            invert=invert,
            normalize=normalize,
            resize=resize,
            crop=crop,
            filter=filter_,
            background=background,
            draft=draft,
            retry_errors=retry_errors,
            part=part,
            ray=engine is Engine.RAY,
            wait=wait,
            check=check,
            merge=merge,
            neighbours=neighbours or (5 if neighbours_grid else 0),
            neighbours_grid=neighbours_grid,
        ),
        as_json=json,
    )


@app.command(epilog="Example: forwardpass neighbours photos-vectors photos/cat/0.jpg")
@with_connection(_HERE_OR_SERVER)
def neighbours(
    *,
    folder: JobArgument,
    queries: Annotated[
        list[str],
        typer.Argument(
            metavar="QUERY...",
            show_default=False,
            help="Files that the job has embedded, or others, or texts for a model of texts.",
        ),
    ],
    k: Annotated[int, typer.Option("--k", min=1, help="How many nearest to print.")] = 5,
    grid: Annotated[
        Path | None,
        typer.Option(metavar="FILE.png", help="Draw them: in each row a query and its nearest."),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            show_default="the job's, from models/ or the server",
            help="The model, for queries that the job has not embedded.",
        ),
    ] = None,
    approximate: Annotated[
        bool,
        typer.Option(
            "--approximate",
            help="Search an index that may miss some, made at first and kept in DIR (extra "
            "search).",
        ),
    ] = False,
    json: Json = False,
    connection: Connection,
) -> None:
    """Finds what is nearest among the vectors of a job's folder."""
    from forwardpass.client.commands import search as command

    command.neighbours(
        folder,
        queries,
        k,
        grid,
        command.QueryModel(connection, model, is_served=connection.is_named),
        approximate=approximate,
        as_json=json,
    )


@app.command(epilog="Example: forwardpass duplicates photos-vectors --cosine 0.98")
def duplicates(
    *,
    folder: JobArgument,
    cosine: Annotated[
        float,
        typer.Option(min=-1, max=1, help="Vectors whose angle has this cosine or more are alike."),
    ] = 0.99,
    json: Json = False,
) -> None:
    """Finds rows of a job whose bytes are the same, and such whose vectors are nearly so."""
    from forwardpass.client.commands import search as command

    command.duplicates(folder, cosine, as_json=json)


@app.command("map", epilog="Example: forwardpass map photos-vectors --out map.png")
def map_(
    *,
    folder: JobArgument,
    out: Annotated[Path, typer.Option(metavar="FILE.png", help="Where to draw it.")] = Path(
        "map.png"
    ),
    method: Annotated[
        MapMethod, typer.Option(help="Keep near ones near, or show the two axes of most variance.")
    ] = MapMethod.TSNE,
    rows: Annotated[
        int, typer.Option(min=10, help="How many vectors to draw, spread evenly over all.")
    ] = 2000,
) -> None:
    """Draws the vectors of a job's folder on a plane, coloured by label (extra `map`)."""
    from forwardpass.client.commands import search as command

    command.draw_map(folder, out, method.value, rows)


@app.command(epilog="Example: forwardpass generate mnist-gan --count 64 --seed 7 --out grid.png")
@with_connection()
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
    connection: Connection,
) -> None:
    """Draws samples from a generator; texts are printed."""
    from forwardpass.client.commands import generate as command

    command.run(
        connection,
        model,
        command.Options(count, seed, class_, prompt, temperature, length),
        stream=stream,
        out=out,
        as_json=json,
    )


@app.command(epilog="Example: forwardpass health mnist-cnn && echo ready")
@with_connection()
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
    connection: Connection,
) -> None:
    """Prints SERVING (exit code 0) or NOT_SERVING (exit code 4)."""
    from forwardpass.client.commands import health as command

    command.run(connection, model, as_json=json)


@app.command(epilog="Example: forwardpass protos --out contract")
def protos(
    *,
    out: Annotated[
        Path,
        typer.Option(
            metavar="DIR",
            file_okay=False,
            show_default=False,
            help="A folder that is new or empty, or that this command has written.",
        ),
    ],
) -> None:
    """Writes the .proto files that clients in other languages are generated from."""
    from forwardpass.client.commands import protos as command

    command.run(out)


def main() -> None:
    """Runs the command line; exits with the code that `exit_code` gives an error."""
    # gRPC's core logs what we say in our own words.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    try:
        # 2, as for any other file that cannot be written.
        with (
            needing("search", "forwardpass", code=2),
            needing("server", "forwardpass", code=2),
            needing("ray", "forwardpass", code=2),
            needing("map", "forwardpass", code=2),
            needing("embed", "forwardpass", code=2),
        ):
            app()
    except Exception as error:  # noqa: BLE001 - an unexpected one is raised again
        from forwardpass.client.commands.exit_code import explain

        sys.exit(explain(error))
