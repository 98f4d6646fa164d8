"""Golden inputs and the outputs that they must give, as a .npz without pickles."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from forwardpass.wire import Array

GOLDEN_FILE = "golden.npz"
_INPUT, _OUTPUT = "inputs/", "outputs/"


@dataclass(frozen=True, slots=True)
class Golden:
    """Arrays by tensor name; axis 0 counts the same rows in each."""

    inputs: Mapping[str, Array]
    outputs: Mapping[str, Array]

    @property
    def rows(self) -> int:
        """How many golden examples there are."""
        return len(next(iter(self.inputs.values())))


def save_golden(path: Path, golden: Golden) -> None:
    """Writes the file; equal arrays give equal bytes."""
    arrays = {_INPUT + name: array for name, array in golden.inputs.items()}
    arrays |= {_OUTPUT + name: array for name, array in golden.outputs.items()}
    # An array of objects would be pickled; text of fixed width is not.
    plain = {
        name: array.astype(np.str_) if array.dtype.kind == "O" else array
        for name, array in arrays.items()
    }
    with path.open("wb") as file:
        np.savez(file, allow_pickle=False, **plain)


def load_golden(path: Path) -> Golden:
    """Returns what `save_golden` wrote.

    Raises:
        ValueError: The file is not such a file.
    """
    inputs: dict[str, Array] = {}
    outputs: dict[str, Array] = {}
    with np.load(path, allow_pickle=False) as file:
        for key in file.files:
            array = file[key]
            if array.dtype.kind == "U":
                array = array.astype(object)
            if key.startswith(_INPUT):
                inputs[key.removeprefix(_INPUT)] = array
            else:
                outputs[key.removeprefix(_OUTPUT)] = array
    if not inputs or not outputs:
        raise ValueError(f"{path.name} holds no golden inputs or no golden outputs")
    return Golden(inputs, outputs)
