"""What identifies files, arrays and embedding spaces: SHA-256, in hexadecimal."""

import hashlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from forwardpass.wire import Array, Preparation


def file_digest(path: Path) -> str:
    """Returns the digest of the file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def array_digest(arrays: Iterable[Array]) -> str:
    """Returns one digest of the types, shapes and elements of arrays, in order.

    Arrays of objects must hold `str`.
    """
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.dtype.str}{array.shape}".encode())
        if array.dtype.kind == "O":
            for item in array.ravel():
                data = item.encode()
                digest.update(len(data).to_bytes(8, "little") + data)
        else:
            # A view: an array may be larger than what memory has room for.
            digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def space_id(model_digest: str, output: str, prepared: Preparation | None = None) -> str:
    """Returns the identity of the vectors that one output of one model file gives.

    32 hexadecimal digits. Equal exactly when the file, the output and the way in which pictures
    were prepared are the same, so vectors of two ids must not be compared.

    Args:
        model_digest: SHA-256 of the file, in hexadecimal.
        output: The output's name.
        prepared: How pictures were prepared; None where they were as the model's card says.
    """
    suffix = "" if prepared is None else f"\0{prepared}"
    return hashlib.sha256(f"{model_digest}\0{output}{suffix}".encode()).hexdigest()[:32]
