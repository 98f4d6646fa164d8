"""What callers hand in, made into what is sent.

    {"x": array}, array, [[1.0, 2.0]]   ──►  tensors by name
    "cat.png", bytes, [Path("dog.jpg")] ──►  encoded images, one a row
    "text", ["one", "two"]              ──►  texts, one a row

What cannot be sent is an `InvalidInput` before anything is.
"""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from forwardpass.client.card import TensorSpec
from forwardpass.client.errors import InvalidInput
from forwardpass.v1 import tensor_pb2
from forwardpass.wire import DTYPES, Array, to_tensor

# Arrays by input name, or the one array of a model with one input.
Inputs: TypeAlias = Mapping[str, ArrayLike] | ArrayLike | None
# The path of a JPEG or PNG file, or its bytes.
Image: TypeAlias = str | Path | bytes
Images: TypeAlias = Image | Iterable[Image] | None
Texts: TypeAlias = str | Iterable[str] | None

_DTYPE_BY_NAME = {kind.name: kind.dtype for kind in DTYPES.values()}


def tensors(
    inputs: Inputs, specs: Callable[[], tuple[TensorSpec, ...]]
) -> dict[str, tensor_pb2.Tensor]:
    """Returns the tensors to send, by input name.

    Args:
        inputs: What the caller gave. An array goes as it is; lists and numbers, which have no
            element type of their own, take the one that the model states.
        specs: Asks what the model's inputs are; called only where that must be known.

    Raises:
        InvalidInput: A name is missing or unknown, or values do not fit the input's type.
    """
    if inputs is None:
        return {}
    if not isinstance(inputs, Mapping):
        inputs = {_only_input(specs()).name: inputs}
    return {name: _tensor(name, value, specs) for name, value in inputs.items()}


def images(given: Images) -> list[bytes]:
    """Returns the files' bytes, as they are.

    Raises:
        OSError: A file cannot be read.
    """
    if given is None:
        return []
    if isinstance(given, (str, Path, bytes)):
        given = [given]
    return [_encoded(item) for item in given]


def texts(given: Texts) -> list[str]:
    """Returns the texts.

    Raises:
        InvalidInput: A text cannot be sent as UTF-8.
    """
    if given is None:
        return []
    listed = [given] if isinstance(given, str) else list(given)
    for row, text in enumerate(listed):
        check_text(text, f"texts[{row}]")
    return listed


def latents(given: ArrayLike | None) -> tensor_pb2.Tensor | None:
    """Returns a generator's latents as float32, which all of them are.

    Raises:
        InvalidInput: They are no numbers.
    """
    if given is None:
        return None
    try:
        return to_tensor(np.asarray(given, np.float32))
    except (TypeError, ValueError) as error:
        raise InvalidInput(f"latents: {error}", field="latents") from None


def unsigned(value: int, field: str, bits: int) -> int:
    """Returns the number, or raises InvalidInput where the field's type cannot hold it."""
    if not 0 <= value < 1 << bits:
        raise InvalidInput(f"{field}: {value} is not in [0, 2**{bits})", field=field)
    return value


def check_text(text: str, field: str) -> None:
    """Raises InvalidInput where the text holds half of a surrogate pair, which UTF-8 cannot."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidInput(f"{field} is no valid text: {error}", field=field) from None


def _encoded(image: Image) -> bytes:
    if isinstance(image, bytes):
        return image
    if isinstance(image, (str, Path)):
        return Path(image).read_bytes()
    raise InvalidInput(
        f"images are paths or bytes of JPEG or PNG files, got {type(image).__name__}: "
        "give pixels as an array in inputs",
        field="images",
    )


def _only_input(specs: tuple[TensorSpec, ...]) -> TensorSpec:
    if len(specs) != 1:
        names = ", ".join(spec.name for spec in specs)
        raise InvalidInput(
            f"one array was given, but the model takes {len(specs)} inputs ({names}): "
            "give a mapping from their names to arrays",
            field="inputs",
        )
    return specs[0]


def _tensor(
    name: str, value: ArrayLike, specs: Callable[[], tuple[TensorSpec, ...]]
) -> tensor_pb2.Tensor:
    field = f"inputs.{name}"
    try:
        array = np.asarray(value) if hasattr(value, "__array__") else _typed(name, value, specs())
        return to_tensor(array)
    except (TypeError, ValueError, OverflowError) as error:
        raise InvalidInput(f"{field}: {error}", field=field) from None


def _typed(name: str, value: ArrayLike, specs: tuple[TensorSpec, ...]) -> Array:
    spec = next((spec for spec in specs if spec.name == name), None)
    if spec is None:
        names = ", ".join(spec.name for spec in specs)
        raise InvalidInput(
            f"the model has no input {name!r}: it takes {names}", field=f"inputs.{name}"
        )
    dtype = _DTYPE_BY_NAME.get(spec.dtype)
    if dtype is None:
        raise TypeError("its type is unknown to this version: give a numpy array instead of a list")
    return _cast(value, np.asarray(value), dtype, spec.dtype)


def _cast(value: ArrayLike, natural: Array, dtype: np.dtype[Any], name: str) -> Array:
    # numpy would cut 1.5 to 1 and read "1.5" as a number; a wrong answer would come of it.
    if natural.size and not _fits(natural.dtype, dtype):
        raise TypeError(f"takes {name}, but the values are {natural.dtype.name}")
    # Integers are cast from the values themselves, since that checks their range.
    return np.asarray(value, dtype)


def _fits(natural: np.dtype[Any], dtype: np.dtype[Any]) -> bool:
    if dtype.kind == "O":
        return natural.kind in "USO"
    if dtype.kind in "iu":
        return natural.kind in "iub"
    # ml_dtypes' bfloat16 is of kind "V", and takes what a float takes.
    return natural.kind in ("b" if dtype.kind == "b" else "iufb")
