"""What there is to embed: image files, the lines of a text file, or the rows of one array."""

import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import typer

from forwardpass.client.card import ImageInput
from forwardpass.client.commands.input_files import IMAGE_SUFFIXES, load_array
from forwardpass.client.models import Model
from forwardpass.pixels import ImageError, decode_image
from forwardpass.wire import Array


@dataclass(frozen=True, slots=True)
class Loaded:
    """Some rows, read.

    Attributes:
        rows: The model's input for those that could be read.
        errors: For each row why it could not be read, or None.
    """

    rows: Array
    errors: list[str | None]


class Source(ABC):
    """Rows to embed.

    Attributes:
        names: What each row is called.
        labels: What each row is an example of; empty where unknown.
        input: The model's input that takes the rows.
        row_bytes: The size of one row.
    """

    names: Sequence[str]
    labels: Sequence[str]
    input: str
    row_bytes: int

    @abstractmethod
    def load(self, rows: range) -> Loaded:
        """Reads some rows; called by several threads at once."""


class ImageFiles(Source):
    """Image files, decoded and resized as the model's card says; labelled by their folders.

    Args:
        paths: Of JPEG and PNG files.
        image: What the card says.
        invert: Whether to give their negatives.
    """

    def __init__(self, paths: Sequence[Path], image: ImageInput, *, invert: bool) -> None:
        self.paths = paths
        self.names = [_text(str(path)) for path in paths]
        self.labels = [_text(path.absolute().parent.name) for path in paths]
        self.input = image.input
        self.row_bytes = image.height * image.width * image.channels
        self._image = image
        self._invert = invert

    def load(self, rows: range) -> Loaded:
        image = self._image
        pixels: list[Array] = []
        errors: list[str | None] = []
        for row in rows:
            try:
                data = self.paths[row].read_bytes()
                pixels.append(decode_image(data, image.channels, (image.height, image.width)))
                errors.append(None)
            except ImageError as error:
                errors.append(str(error))
            except OSError as error:
                errors.append(error.strerror or str(error))
        empty = np.empty((0, image.height, image.width, image.channels), np.uint8)
        rows_read = np.stack(pixels) if pixels else empty
        return Loaded(255 - rows_read if self._invert else rows_read, errors)


class ArrayRows(Source):
    """The rows of one array.

    Args:
        array: (rows, ...).
        names: What each row is called.
        name: The model's input.
        row_bytes: The size of a row as it is sent, at most.
    """

    def __init__(self, array: Array, names: Sequence[str], name: str, row_bytes: int) -> None:
        self.names = names
        self.labels = [""] * len(array)
        self.input = name
        self.row_bytes = row_bytes
        self._array = array

    def load(self, rows: range) -> Loaded:
        return Loaded(self._array[rows.start : rows.stop], [None] * len(rows))


def open_source(inputs: Sequence[Path], model: Model, *, invert: bool) -> Source:
    """Returns the rows that the command line names.

    Args:
        inputs: Files and folders.
        model: Which will get them.
        invert: Whether to give the pictures' negatives.

    Raises:
        typer.BadParameter: Nothing is found, or the model does not take what is.
    """
    if invert and any(path.suffix in (".npy", ".txt") for path in inputs):
        raise typer.BadParameter("it is for pictures, and there are none", param_hint="--invert")
    if any(path.suffix == ".npy" for path in inputs):
        return _open_array(inputs, model)
    if any(path.suffix == ".txt" for path in inputs):
        return _open_lines(inputs, model)
    image = model.card.image if model.card else None
    if image is None:
        raise typer.BadParameter(
            f"{model.summary.name} takes no images: give the rows of its input as one .npy",
            param_hint="INPUT",
        )
    paths = [path for given in inputs for path in _find_images(given)]
    if not paths:
        listed = ", ".join(map(str, inputs))
        raise typer.BadParameter(f"no JPEG or PNG files in {listed}", param_hint="INPUT")
    return ImageFiles(paths, image, invert=invert)


def _open_array(inputs: Sequence[Path], model: Model) -> ArrayRows:
    specs = model.signature.inputs
    if len(inputs) != 1 or len(specs) != 1:
        raise typer.BadParameter(
            "a .npy goes alone, and to a model with one input", param_hint="INPUT"
        )
    array = load_array(inputs[0])
    if not array.ndim:
        raise typer.BadParameter(f"{inputs[0]} holds one number, no rows", param_hint="INPUT")
    numbers = [str(row) for row in range(len(array))]
    row_bytes = array.itemsize * int(np.prod(array.shape[1:]))
    return ArrayRows(array, numbers, specs[0].name, row_bytes)


def _open_lines(inputs: Sequence[Path], model: Model) -> ArrayRows:
    """Returns a row for each line that is not blank, called by its text."""
    text = next((spec for spec in model.signature.inputs if spec.role == "text"), None)
    if text is None:
        raise typer.BadParameter(f"{model.summary.name} takes no texts", param_hint="INPUT")
    if any(path.suffix != ".txt" for path in inputs):
        raise typer.BadParameter("text files go without others", param_hint="INPUT")
    lines = [line.strip() for path in inputs for line in _read_lines(path) if line.strip()]
    if not lines:
        listed = ", ".join(map(str, inputs))
        raise typer.BadParameter(
            f"there is nothing but blank lines in {listed}", param_hint="INPUT"
        )
    longest = max(len(line.encode()) for line in lines)
    return ArrayRows(np.array(lines, dtype=object), lines, text.name, longest)


def _read_lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").split("\n")
    except (OSError, ValueError) as error:
        raise typer.BadParameter(f"{path} cannot be read: {error}", param_hint="INPUT") from None


def _find_images(given: Path) -> list[Path]:
    if given.is_dir():
        # Sorted, so that two runs over the same folder give the same file.
        return sorted(
            path
            for path in given.rglob("*")
            if path.suffix.lower() in IMAGE_SUFFIXES and not path.is_dir()
        )
    if given.suffix.lower() not in IMAGE_SUFFIXES:
        raise typer.BadParameter(
            f"{given}: expected a folder, .png, .jpg, .jpeg, .txt or .npy", param_hint="INPUT"
        )
    return [given]


def _text(name: str) -> str:
    """Returns a file's name as text that can be written down: a name may be any bytes."""
    return os.fsencode(name).decode("utf-8", "replace")
