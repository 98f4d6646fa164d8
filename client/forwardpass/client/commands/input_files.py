"""Files that hold a model's inputs: pictures, arrays and JSON."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Never, TypeVar

import numpy as np
import typer
from numpy.typing import ArrayLike

from forwardpass.wire import Array

Value = TypeVar("Value")

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png"})


@dataclass(frozen=True, slots=True)
class GivenInputs:
    """What to call a model with.

    Attributes:
        images: Encoded images, one a row.
        arrays: Arrays or lists by input name, or those of the model's only input, or None.
    """

    images: list[Path]
    arrays: Mapping[str, ArrayLike] | ArrayLike | None


def read_inputs(files: Sequence[str]) -> GivenInputs:
    """Reads the files named on the command line; images are left for the call to read.

    Raises:
        typer.BadParameter: A file is of no known kind or cannot be read, or the files do not go
            together.
    """
    images: list[Path] = []
    named: dict[str, ArrayLike] = {}
    nameless: list[ArrayLike] = []
    for text in files:
        name, path = _split(text)
        suffix = path.suffix.lower()
        if not path.exists():
            _refuse(f"{path} does not exist")
        if name is not None:
            named[name] = load_array(path)
        elif suffix in IMAGE_SUFFIXES:
            images.append(path)
        elif suffix == ".npz":
            named |= _read(path, _load_arrays)
        elif suffix == ".npy":
            nameless.append(load_array(path))
        elif suffix == ".json":
            value = _read(path, _load_json)
            if isinstance(value, dict):
                named |= value
            else:
                nameless.append(value)
        else:
            _refuse(f"{path}: expected .png, .jpg, .jpeg, .npy, .npz or .json")
    if len(nameless) > 1 or (nameless and (named or images)):
        _refuse("an array without a name goes alone: write NAME=FILE.npy for each, or use .npz")
    return GivenInputs(images, nameless[0] if nameless else named or None)


def load_array(path: Path) -> Array:
    """Returns the array in a .npy file, read as it is needed.

    Raises:
        typer.BadParameter: The file is none, or holds pickled objects.
    """
    return _read(path, lambda path: np.load(path, mmap_mode="r", allow_pickle=False))


def _split(text: str) -> tuple[str | None, Path]:
    """Splits NAME=FILE; a file whose own name has an equals sign is that file."""
    name, equals, path = text.partition("=")
    if not equals or Path(text).exists():
        return None, Path(text)
    return name, Path(path)


def _load_arrays(path: Path) -> dict[str, Array]:
    with np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def _load_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _read(path: Path, load: Callable[[Path], Value]) -> Value:
    try:
        return load(path)
    except (ValueError, EOFError, OSError) as error:
        _refuse(f"{path} cannot be read: {error}")


def _refuse(message: str) -> Never:
    raise typer.BadParameter(message, param_hint="INPUT")
