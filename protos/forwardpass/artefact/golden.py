"""Golden inputs and the outputs that they must give, as a .npz without pickles."""

from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from math import prod
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZIP_STORED, ZipFile, ZipInfo

import numpy as np

from forwardpass.wire import Array

GOLDEN_FILE = "golden.npz"
# The most bytes of the file, packed and unpacked.
MAX_GOLDEN_BYTES = 256 << 20
_INPUT, _OUTPUT = "inputs/", "outputs/"
_MAX_ARRAYS = 1024
# An object for each: some 60 bytes, however short it is.
_MAX_TEXTS = 1 << 20
_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


@dataclass(frozen=True, slots=True)
class Golden:
    """Arrays by tensor name; axis 0 counts the same rows in each, if the model has rows at all."""

    inputs: Mapping[str, Array]
    outputs: Mapping[str, Array]

    @property
    def rows(self) -> int:
        """How many golden examples there are; of a model without rows, the first axis's extent."""
        first = next(iter(self.inputs.values()))
        return len(first) if first.ndim else 1


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
    return parse_golden(path.read_bytes())


def parse_golden(data: bytes) -> Golden:
    """Returns what `save_golden` wrote, from the bytes of the file.

    Sizes are compared with what the file states of itself before anything is unpacked, as a small
    file may claim, and unpack to, any number of bytes.

    Raises:
        ValueError: The file is not such a file, or would take more than MAX_GOLDEN_BYTES.
    """
    inputs: dict[str, Array] = {}
    outputs: dict[str, Array] = {}
    with ZipFile(BytesIO(data)) as file:
        members = file.infolist()
        if len(members) > _MAX_ARRAYS:
            raise ValueError(f"it holds {len(members)} arrays; at most {_MAX_ARRAYS} are read")
        unpacked = sum(member.file_size for member in members)
        if unpacked > MAX_GOLDEN_BYTES:
            raise ValueError(f"it unpacks to {unpacked} bytes; at most {MAX_GOLDEN_BYTES} are read")
        for member in members:
            key = member.filename.removesuffix(".npy")
            array = _parse_array(_unpack(file, member))
            if key.startswith(_INPUT):
                inputs[key.removeprefix(_INPUT)] = array
            else:
                outputs[key.removeprefix(_OUTPUT)] = array
    if not inputs or not outputs:
        raise ValueError("it holds no golden inputs or no golden outputs")
    return Golden(inputs, outputs)


def _unpack(file: ZipFile, member: ZipInfo) -> bytes:
    if member.compress_type not in {ZIP_STORED, ZIP_DEFLATED}:
        raise ValueError("it is packed in a way that numpy does not use")
    with file.open(member) as packed:
        # With a number, as what it unpacks to may be more than it states.
        data = packed.read(member.file_size + 1)
    if len(data) != member.file_size:
        raise ValueError(f"{member.filename} has not the {member.file_size} bytes that it states")
    return data


def _parse_array(data: bytes) -> Array:
    """Returns an array in numpy's format, whose header must be true: its shape is what is made."""
    file = BytesIO(data)
    version = np.lib.format.read_magic(file)
    if version not in _HEADERS:
        raise ValueError(f"an array is of version {version} of numpy's format")
    shape, is_fortran, dtype = _HEADERS[version](file)
    size = prod(shape)
    if dtype.hasobject or dtype.fields is not None or dtype.subdtype is not None:
        raise ValueError("an array holds objects or records")
    if dtype.itemsize * size != len(data) - file.tell():
        raise ValueError(f"an array has not the bytes of {dtype} {list(shape)}")
    if dtype.kind == "U" and size > _MAX_TEXTS:
        raise ValueError(f"an array holds {size} texts; at most {_MAX_TEXTS} are read")
    has_bytes = len(data) > file.tell()
    flat = np.frombuffer(data, dtype, size, file.tell()) if has_bytes else np.zeros(size, dtype)
    array: Array = flat.reshape(shape, order="F" if is_fortran else "C")
    return array.astype(object) if dtype.kind == "U" else array.copy()
