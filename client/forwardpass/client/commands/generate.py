"""`forwardpass generate`: samples as a picture, an array or text."""

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import typer

from forwardpass.client.client import Client
from forwardpass.client.commands.connection import Connection, split_model
from forwardpass.client.commands.display import print_json
from forwardpass.client.models import Version
from forwardpass.client.results import Generated
from forwardpass.client.whole_file import storable, whole_file
from forwardpass.wire import Array

# A picture of small samples is enlarged to this height or width at most, in pixels.
_SIDE = 1_000


@dataclass(frozen=True, slots=True)
class Options:
    """What to draw; each as in `Client.generate`, and `class_` as it was typed."""

    count: int
    seed: int | None
    class_: str | None
    prompt: str | None
    temperature: float | None
    length: int | None


def run(
    connection: Connection,
    model: str,
    options: Options,
    *,
    stream: bool,
    out: Path | None,
    as_json: bool,
) -> None:
    name, version = split_model(model)
    if stream:
        if out or as_json or options.count > 1:
            raise typer.BadParameter(
                "one text is printed as it is written: leave out --count, --out and --json",
                param_hint="--stream",
            )
        _stream(connection, name, version, options)
        return
    if out and out.suffix not in (".png", ".npy"):
        raise typer.BadParameter(f"{out} ends neither in .png nor in .npy", param_hint="--out")
    with connection.open() as client:
        generated = client.generate(
            name,
            count=options.count,
            seed=options.seed,
            class_=_class(client, name, version, options.class_),
            prompt=options.prompt,
            temperature=options.temperature,
            length=options.length,
            version=version,
        )
    if out:
        _save(out, generated)
    if as_json:
        print_json(
            {
                "model": generated.model,
                "version": generated.version,
                "seed": generated.seed,
                "texts": generated.texts,
                "samples": None if out else generated.samples,
                "file": str(out) if out else None,
            }
        )
        return
    for text in generated.texts:
        typer.echo(text)
    # Texts go to standard output alone, so that they can be piped on.
    typer.echo(_summary(generated, out), err=bool(generated.texts))


def _stream(connection: Connection, name: str, version: Version, options: Options) -> None:
    """Prints a text, each piece when it comes."""
    last: Generated | None = None
    with connection.open() as client:
        for _, last in client.generate_stream(
            name,
            seed=options.seed,
            class_=_class(client, name, version, options.class_),
            prompt=options.prompt,
            temperature=options.temperature,
            length=options.length,
            version=version,
        ):
            if last.samples is not None:
                raise typer.BadParameter(
                    f"{name} gives samples that are no texts: leave it out", param_hint="--stream"
                )
            typer.echo("".join(last.texts), nl=False)
            sys.stdout.flush()
    typer.echo()
    if last is not None:
        typer.echo(_summary(last, None), err=True)


def _class(client: Client, name: str, version: Version, typed: str | None) -> int | str | None:
    """A label where the model has it; any other number is a class's index."""
    if typed is None or not (typed.isascii() and typed.isdigit()):
        return typed
    card = client.model(name, version).card
    return typed if card and typed in card.labels else int(typed)


def _summary(generated: Generated, out: Path | None) -> str:
    if generated.samples is None:
        made = f"{len(generated.texts)} texts"
    else:
        made = f"{len(generated.samples)} samples of {generated.samples.shape[1:]}"
    where = f", in {out}" if out else ""
    seed = generated.seed
    return f"{made} from {generated.model} version {generated.version}, seed {seed}{where}"


def _save(path: Path, generated: Generated) -> None:
    samples = generated.samples
    if samples is None:
        raise typer.BadParameter(
            f"{generated.model} gives texts, which {path} cannot hold: send the output to a file",
            param_hint="--out",
        )
    if path.suffix == ".png":
        picture = _picture(samples, path)
        with whole_file(path) as file:
            file.write(picture)
    else:
        with whole_file(path) as file:
            np.save(file, storable(samples), allow_pickle=False)


def _picture(samples: Array, path: Path) -> bytes:
    from forwardpass.pixels import encode_png, image_grid

    if samples.dtype != np.uint8 or samples.ndim != 4:
        raise typer.BadParameter(
            f"samples of {samples.dtype} {samples.shape} are no images: use a .npy file instead "
            f"of {path}",
            param_hint="--out",
        )
    return encode_png(_enlarged(image_grid(samples)))


def _enlarged(grid: Array) -> Array:
    """Returns the picture with each pixel drawn as a square, as large as `_SIDE` has room for."""
    factor = max(1, _SIDE // max(grid.shape[:2]))
    return grid.repeat(factor, axis=0).repeat(factor, axis=1)
