"""`forwardpass predict`: classes or outputs, for files and texts."""

from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO
from urllib.parse import quote

import numpy as np
import typer
from rich.table import Table

from forwardpass.client.commands.connection import Connection, split_model
from forwardpass.client.commands.display import console, print_json, told_warnings
from forwardpass.client.commands.input_files import read_inputs
from forwardpass.client.errors import WrongTask
from forwardpass.client.models import Model
from forwardpass.client.results import Prediction
from forwardpass.client.whole_file import storable, whole_file
from forwardpass.mail import read_mail

_CLASSES = 3
_BAR = 20
_SHOWN = 60  # characters of a text


def run(
    connection: Connection,
    model: str,
    files: Sequence[str],
    texts: Sequence[str],
    mails: Sequence[BinaryIO],
    *,
    invert: bool,
    top_k: int | None,
    out: Path | None,
    pictures: Path | None,
    as_json: bool,
) -> None:
    name, version = split_model(model)
    if not files and not texts and not mails:
        raise typer.BadParameter(
            "nothing to predict: give files, --text or --mail", param_hint="INPUT"
        )
    if out and out.suffix != ".npz":
        raise typer.BadParameter(f"{out} does not end in .npz", param_hint="--out")
    given = read_inputs(files)
    with connection.open() as client, told_warnings():
        image_outputs = _image_outputs(client.model(name, version)) if pictures else []
        if top_k is None:
            top_k = _default_classes(client.model(name, version))
        prediction = client.predict(
            name,
            given.arrays,
            images=given.images,
            invert=invert,
            texts=[*texts, *(read_mail(mail.read()) for mail in mails)],
            top_k=top_k,
            png=pictures is not None,
            version=version,
        )
    written = [str(out)] if out else []
    if out:
        _save(out, prediction)
    if pictures:
        written += _save_pictures(pictures, prediction, image_outputs)
    shown = texts if as_json else [_first_line(text) for text in texts]
    titles = [*map(str, given.images), *shown, *(mail.name for mail in mails)]
    if as_json:
        _print_json(prediction, titles)
    elif prediction.classes:
        console().print(_class_table(prediction, titles))
    elif prediction.outputs:
        console().print(_output_table(prediction))
    if written:
        typer.echo(f"wrote {', '.join(written)}", err=as_json)


def _image_outputs(model: Model) -> list[str]:
    names = [spec.name for spec in model.signature.outputs if spec.role == "image"]
    if not names:
        raise WrongTask(f"{model.summary.name} has no image output, so it gives no pictures")
    return names


def _default_classes(model: Model) -> int:
    return min(_CLASSES, len(model.class_labels))


def _title(titles: Sequence[str], row: int) -> str:
    return titles[row] if row < len(titles) else f"row {row}"


def _first_line(text: str) -> str:
    """Returns what a table shows of a text: its first line, and not too much of it."""
    line = text.strip().partition("\n")[0]
    return f"{line[:_SHOWN]}…" if len(line) > _SHOWN else line


def _class_table(prediction: Prediction, titles: Sequence[str]) -> Table:
    caption = f"{prediction.model} version {prediction.version}"
    table = Table("input", "label", "probability", "", caption=caption)
    for row, classes in enumerate(prediction.classes):
        for place, score in enumerate(classes):
            table.add_row(
                _title(titles, row) if place == 0 else "",
                score.label,
                f"{score.probability:.2%}",
                "█" * round(score.probability * _BAR),
                end_section=place == len(classes) - 1,
            )
    return table


def _output_table(prediction: Prediction) -> Table:
    caption = f"{prediction.model} version {prediction.version}"
    table = Table("output", "type", "shape", "values", caption=caption)
    for name, array in prediction.outputs.items():
        kind = "string" if array.dtype.kind == "O" else array.dtype.name
        values = np.array2string(array, threshold=12, edgeitems=2, precision=4)
        table.add_row(name, kind, str(array.shape), values)
    return table


def _print_json(prediction: Prediction, titles: Sequence[str]) -> None:
    print_json(
        {
            "model": prediction.model,
            "version": prediction.version,
            "rows": [
                {"input": _title(titles, row), "classes": classes}
                for row, classes in enumerate(prediction.classes)
            ],
            "outputs": prediction.outputs,
        }
    )


def _save(path: Path, prediction: Prediction) -> None:
    arrays = {name: storable(array) for name, array in prediction.outputs.items()}
    with whole_file(path) as file:
        np.savez(file, allow_pickle=False, **arrays)


def _save_pictures(folder: Path, prediction: Prediction, outputs: Sequence[str]) -> list[str]:
    """Writes FOLDER/<row>-<output>.png for each row and image output; returns the paths."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = len(prediction.images) // len(outputs)
    places = ((output, row) for output in outputs for row in range(rows))
    paths = []
    for (output, row), png in zip(places, prediction.images, strict=True):
        path = folder / f"{row}-{quote(output, safe='')}.png"
        with whole_file(path) as file:
            file.write(png)
        paths.append(str(path))
    return paths
