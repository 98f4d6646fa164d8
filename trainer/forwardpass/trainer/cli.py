"""The command forwardpass-train."""

import os
import sys
import webbrowser
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version as package_version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from forwardpass.extras import needing
from forwardpass.trainer.data import SOURCES, find_source
from forwardpass.trainer.errors import TrainerError
from forwardpass.trainer.recipes import RECIPES, Recipe, find_recipe
from forwardpass.trainer.tables import (
    describe_int8,
    describe_version,
    print_facts,
    print_json,
    print_line,
    print_points,
    print_rows,
    print_sizes,
)
from forwardpass.trainer.training.interrupt import remembered

if TYPE_CHECKING:
    from forwardpass.trainer.export.published import Published
    from forwardpass.trainer.training.workspace import Workspace

# What a shell gives for a command that Ctrl-C has ended.
_INTERRUPTED = 130
# Progress and errors; results go to standard output.
_err = Console(stderr=True)

app = typer.Typer(
    name="forwardpass-train",
    help="Trains neural networks and publishes them as checked ONNX artefacts.",
    epilog="Example: forwardpass-train run digits-mlp",
    no_args_is_help=True,
    # Our own errors are sentences for people; of any other one `main` says how to see its trace.
    pretty_exceptions_enable=False,
)


def _complete_recipe(incomplete: str) -> list[tuple[str, str]]:
    from forwardpass.trainer.recipes.outside import installed

    known = RECIPES | installed().recipes
    return [(each.name, each.makes) for each in known.values() if each.name.startswith(incomplete)]


def _complete_source(incomplete: str) -> list[tuple[str, str]]:
    return [
        (each.name, each.about) for each in SOURCES.values() if each.name.startswith(incomplete)
    ]


_FOLDERS = "Folders"
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead, for programs.")]
RecipeName = Annotated[
    str,
    typer.Argument(
        metavar="RECIPE",
        show_default=False,
        help="A name that `forwardpass-train list` has, or your own: ./FILE.py or PACKAGE.MODULE.",
        autocompletion=_complete_recipe,
    ),
]
Models = Annotated[
    Path,
    typer.Option(metavar="FOLDER", help="The repository to publish in.", rich_help_panel=_FOLDERS),
]
Runs = Annotated[
    Path,
    typer.Option(metavar="FOLDER", help="Where checkpoints are kept.", rich_help_panel=_FOLDERS),
]
Cache = Annotated[
    Path,
    typer.Option(
        metavar="FOLDER",
        help="Where fetched data is kept.",
        envvar="FORWARDPASS_CACHE",
        default_factory=lambda: Path.home() / ".cache" / "forwardpass",
        show_default="~/.cache/forwardpass",
        rich_help_panel=_FOLDERS,
    ),
]


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"forwardpass {package_version('forwardpass')}")
        raise typer.Exit


@dataclass(slots=True)
class _Options:
    debug: bool = False


_options = _Options()


@app.callback()
def set_options(
    *,
    debug: Annotated[bool, typer.Option("--debug", help="Show where an error comes from.")] = False,
    _version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    """Sets what all commands heed."""
    _options.debug = debug


@app.command("list", epilog="Example: forwardpass-train list --json")
def list_recipes(*, as_json: Json = False) -> None:
    """Lists the recipes: what they make, from what, in what time on two CPU cores, how well.

    Those of installed packages too, after forwardpass's own. A file or module of yours needs no
    list: forwardpass-train run ./my_recipe.py
    """
    from forwardpass.trainer.recipes.outside import installed

    more = installed()
    columns = ("name", "makes", "data", "time", "result", "origin")
    recipes = (RECIPES | more.recipes).values()
    print_rows(
        [{column: getattr(recipe, column) for column in columns} for recipe in recipes],
        as_json=as_json,
    )
    for sentence in more.refused:
        _err.print(sentence, highlight=False, markup=False, soft_wrap=True)


@app.command("settings", epilog="Example: forwardpass-train settings mnist-gan")
def list_settings(recipe: RecipeName, *, as_json: Json = False) -> None:
    """Lists what a recipe lets one set with KEY=VALUE: what each takes, its default and meaning."""
    found = find_recipe(recipe)
    from forwardpass.trainer.training.settings import describe

    print_rows([asdict(setting) for setting in describe(found.settings)], as_json=as_json)


@app.command("new", epilog="Example: forwardpass-train new my_recipe")
def write_recipe(
    name: Annotated[
        str, typer.Argument(metavar="NAME", show_default=False, help="The file's, without .py.")
    ],
) -> None:
    """Writes NAME.py here: a recipe that runs as it is, on data that needs no network, to change.

    What it publishes is called as the file is, with dashes for underscores.
    """
    from forwardpass.trainer.recipes.outside import write_new

    path = write_new(name, Path())
    print_line(f"wrote {path}; now: forwardpass-train run ./{path}")


# So that what looks like an option is told to be a setting, if it is one.
@app.command(
    context_settings={"ignore_unknown_options": True},
    epilog="Example: forwardpass-train run mnist-cnn seed=1 epochs=3 --models models\n\n"
    "Example: forwardpass-train run ./my_recipe.py epochs=3\n\n"
    "Example: forwardpass-train run digits-mlp --sweep learning_rate=1e-4,1e-3,1e-2",
)
def run(
    recipe: RecipeName,
    settings: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="KEY=VALUE",
            show_default=False,
            help="Settings to change; `forwardpass-train settings RECIPE` lists them.",
        ),
    ] = None,
    *,
    cache: Cache,
    models: Models = Path("models"),
    runs: Runs = Path("runs"),
    sweep: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=VALUE,VALUE",
            help="Train with each value, or each combination where given more than once, and "
            "publish the best on validation rows.",
        ),
    ] = None,
    publish: Annotated[
        bool,
        typer.Option(
            "--publish",
            help="Publish as RECIPE's next version also what limit=N kept from most rows, and not "
            "as RECIPE-limited.",
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Trains a recipe's model and publishes its next version in MODELS/RECIPE/.

    A run with limit=N, for a quick try, is published in MODELS/RECIPE-limited/, where it takes
    nobody's place. A run that was stopped goes on from its last checkpoint when it is started again
    with the same settings. An unknown key is answered with the keys there are.
    """
    # Before anything that imports torch, which takes seconds.
    found = find_recipe(recipe)
    from forwardpass.trainer import running
    from forwardpass.trainer.training.checkpoints import is_first_process
    from forwardpass.trainer.training.progress import Reporter
    from forwardpass.trainer.training.settings import parse_settings
    from forwardpass.trainer.training.workspace import Workspace

    console = _err if is_first_process() else Console(stderr=True, quiet=True)
    workspace = Workspace(
        models=models,
        runs=runs,
        cache=cache,
        reporter=Reporter(console),
        keeps_limited_apart=not publish,
    )
    try:
        with remembered():
            if sweep:
                _sweep(found, settings or [], sweep, workspace, as_json=as_json)
                return
            chosen = parse_settings(found.settings, settings or [])
            published = running.run(found, chosen, workspace)
    except KeyboardInterrupt:
        _err.print("stopped; the same command goes on from the last checkpoint", highlight=False)
        sys.exit(_INTERRUPTED)
    if published is not None:  # else this process helped the first one, which publishes
        print_facts(
            describe_version(published),
            published.card.recipe,
            as_json=as_json,
            source=published.card.golden_source or "torch",
        )


@app.command(epilog="Example: forwardpass-train quantize mnist-cnn --max-loss 0.002")
def quantize(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", show_default=False, help="A published model's name.")
    ],
    *,
    cache: Cache,
    models: Models = Path("models"),
    version: Annotated[
        int | None, typer.Option(min=1, help="Which to quantise.", show_default="the newest")
    ] = None,
    max_loss: Annotated[
        float,
        typer.Option(min=0, max=1, help="How much any metric, such as accuracy, may fall."),
    ] = 0.005,
    recipe: Annotated[
        str | None,
        typer.Option(
            metavar="RECIPE",
            show_default=False,
            help="The model's recipe, where no list has it: ./FILE.py or PACKAGE.MODULE.",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Publishes an int8 version of MODELS/MODEL/, as its next one, unless it loses too much.

    Calibrated on rows that the model learned from; measured, with its parent, on its test rows.
    """
    from forwardpass.trainer.quantize import quantize as quantize_model
    from forwardpass.trainer.training.progress import Reporter
    from forwardpass.trainer.training.workspace import Workspace

    workspace = Workspace(models=models, runs=Path("runs"), cache=cache, reporter=Reporter(_err))
    own = None if recipe is None else find_recipe(recipe)
    published = quantize_model(model, version, max_loss, workspace, own)
    print_facts(describe_int8(published), model, as_json=as_json)


@app.command(epilog="Example: forwardpass-train zoo vgg-16 --models models")
def zoo(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="NAME", show_default=False, help="Publish this one, with random weights."
        ),
    ] = None,
    *,
    models: Models = Path("models"),
    seed: Annotated[int, typer.Option(min=0, help="Of the random weights.")] = 0,
    as_json: Json = False,
) -> None:
    """Lists the architectures of the course and how big they are, or publishes one, untrained.

    Multiply-adds are those of one forward pass of one input: each product of a convolution or a
    linear layer that is added to a sum counts once. Biases, normalisation, activations and pooling
    do not count.
    """
    if name is not None:
        facts = describe_version(_publish_untrained(name, models, seed))
        del facts["plots"], facts["metrics"]  # there are none
        print_facts(facts, name, as_json=as_json)
        return
    from forwardpass.trainer.zoo import ARCHITECTURES, measure

    rows = [
        {"name": known, **asdict(measure(found)), "reference": found.reference}
        for known, found in ARCHITECTURES.items()
    ]
    if as_json:
        print_json(rows)
    else:
        print_sizes(rows)


@app.command(
    epilog="Example: forwardpass-train publish model.onnx --name flowers --golden samples.npz "
    "--labels labels.txt --image pixels --mean 0.5 --std 0.25"
)
def publish(
    file: Annotated[Path, typer.Argument(metavar="FILE", show_default=False, help="An ONNX file.")],
    *,
    name: Annotated[str, typer.Option(metavar="NAME", show_default=False, help="The model's.")],
    golden: Annotated[
        Path,
        typer.Option(
            metavar="FILE",
            show_default=False,
            help="A .npz file with a sample of each input, under its name: two rows or more.",
        ),
    ],
    labels: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", show_default=False, help="A text file with a class in each line."
        ),
    ] = None,
    image: Annotated[
        str | None,
        typer.Option(
            metavar="INPUT",
            show_default=False,
            help="The input that takes pictures; in the sample uint8 (rows, height, width, "
            "channels).",
        ),
    ] = None,
    mean: Annotated[
        str,
        typer.Option(
            metavar="M[,M,M]",
            show_default=False,
            help="With --image: the graph takes (pixel / 255 - mean) / std, channels first.",
        ),
    ] = "",
    std: Annotated[
        str,
        typer.Option(metavar="S[,S,S]", show_default=False, help="As --mean, of each channel."),
    ] = "",
    models: Models = Path("models"),
    as_json: Json = False,
) -> None:
    """Publishes an ONNX file that others have made, as the next version of MODELS/NAME/.

    It is compared with itself: without ONNX Runtime's optimiser, a row at a time and all together.
    From Python, `forwardpass.trainer.publish` does so with torch modules and scikit-learn
    estimators, and compares with their own answers.
    """
    means, deviations = _numbers(mean, "--mean"), _numbers(std, "--std")
    from forwardpass.trainer.publishing import publish_file

    published = publish_file(
        file,
        name,
        golden=golden,
        labels=labels,
        image=image,
        mean=means,
        std=deviations,
        models=models,
    )
    facts = describe_version(published)
    del facts["plots"], facts["metrics"], facts["seed"]  # there are none
    print_facts(facts, name, as_json=as_json, source=published.card.golden_source)


def _numbers(text: str, option: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")] if text else []
    except ValueError:
        raise typer.BadParameter(
            f"{text!r} is not numbers with commas between", param_hint=option
        ) from None


@app.command(epilog="Example: forwardpass-train show digits-mlp")
def show(
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="MODEL",
            help="A published model's name.",
            show_default="the newest of all",
        ),
    ] = None,
    *,
    models: Annotated[
        Path,
        typer.Option(metavar="FOLDER", help="The repository to look in.", rich_help_panel=_FOLDERS),
    ] = Path("models"),
) -> None:
    """Opens in a browser the report of the version that was published last.

    Without a display, or a browser, it prints where the report lies.
    """
    from forwardpass.trainer.export.published import find_report

    report = find_report(models, model).resolve()
    if not (_has_display() and webbrowser.open(report.as_uri())):
        typer.echo(report)


def _has_display() -> bool:
    # Else a browser for the terminal might take it.
    named = os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    return sys.platform == "darwin" or bool(named)


@app.command(
    help="Fetches a data set into the cache, and checks it. Recipes do so themselves when needed."
    "\n\n\b\n" + "\n".join(f"{name}: {source.about}" for name, source in SOURCES.items()),
    epilog="Example: forwardpass-train fetch mnist --pictures digits",
)
def fetch(
    name: Annotated[
        str,
        typer.Argument(
            metavar="DATA",
            show_default=False,
            help="One of the data sets above.",
            autocompletion=_complete_source,
        ),
    ],
    *,
    cache: Cache,
    pictures: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Write test images there as PNG, a folder a class."),
    ] = None,
    count: Annotated[
        int, typer.Option(min=1, help="With --pictures: how many of each class.")
    ] = 20,
    table: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write test rows that are no images there, as CSV."),
    ] = None,
) -> None:
    """Fetches one, and writes of it what was asked for."""
    source = find_source(name)
    from forwardpass.trainer.data.pictures import write_pictures
    from forwardpass.trainer.data.table import write_table
    from forwardpass.trainer.training.progress import Reporter

    dataset = source.load(cache, Reporter(_err))
    print_line(f"{name}: {source.about}")
    if pictures is not None:
        written = write_pictures(dataset, pictures, count)
        print_line(f"wrote {written} test images in {pictures}")
    if table is not None:
        print_line(f"wrote {write_table(dataset, table)} test rows to {table}")


def main() -> None:
    """Runs the command; exits with 2 for a name or value that cannot be, 1 for what failed."""
    try:
        with needing("trainer", "forwardpass-train"):
            app()
    except TrainerError as error:
        if _options.debug:
            raise
        _fail(str(error), error.exit_code)
    except Exception as error:
        # Nobody has foreseen it: whoever writes a recipe wants to see where it was.
        if _options.debug:
            raise
        _fail(f"{type(error).__name__}: {error}\n(forwardpass-train --debug shows where)", 1)


def _fail(message: str, code: int) -> None:
    _err.print(f"error: {message}", style="red", highlight=False, markup=False, soft_wrap=True)
    sys.exit(code)


def _sweep(
    recipe: Recipe,
    settings: Sequence[str],
    swept: Sequence[str],
    workspace: "Workspace",
    *,
    as_json: bool,
) -> None:
    from forwardpass.trainer.sweep import grid, row, sweep

    made = sweep(recipe, grid(recipe.settings, settings, swept), workspace)
    if made.published is None:
        return
    points = [row(outcome) for outcome in made.outcomes]
    facts, picture = describe_version(made.published), os.fspath(made.picture)
    if as_json:
        print_json(facts | {"sweep": points, "sweep_picture": picture})
        return
    print_points(points, made.outcomes.index(made.best))
    source = made.published.card.golden_source or "torch"
    print_facts({"sweep": picture} | facts, recipe.name, as_json=False, source=source)


def _publish_untrained(name: str, models: Path, seed: int) -> "Published":
    from forwardpass.trainer.training.progress import Reporter
    from forwardpass.trainer.training.workspace import Workspace
    from forwardpass.trainer.untrained import publish_untrained
    from forwardpass.trainer.zoo import find_architecture

    architecture = find_architecture(name)
    workspace = Workspace(models=models, runs=Path(), cache=Path(), reporter=Reporter(_err))
    return publish_untrained(architecture, workspace, seed)
