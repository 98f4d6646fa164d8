"""What callers hand in, made into what is sent.

    {"x": array}, array, [[1.0, 2.0]]   ──►  tensors by name
    "cat.png", bytes, [Path("dog.jpg")] ──►  encoded images, one a row
    "text", ["one", "two"]              ──►  texts, one a row

What cannot be sent is an `InvalidInput` before anything is.
"""

import sys
from collections.abc import Callable, Iterable, Mapping
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from forwardpass.client.card import TensorSpec
from forwardpass.client.errors import InvalidInput
from forwardpass.v1 import tensor_pb2
from forwardpass.wire import DTYPES, Array, to_tensor

if TYPE_CHECKING:
    import PIL.Image

# Arrays by input name, or the one array of a model with one input.
Inputs: TypeAlias = Mapping[str, ArrayLike] | ArrayLike | None
# The path of a JPEG or PNG file, its bytes, or pixels: uint8 (height, width) or with channels.
Image: TypeAlias = "str | Path | bytes | PIL.Image.Image | NDArray[np.uint8]"
Images: TypeAlias = "Image | Iterable[Image] | None"
Texts: TypeAlias = str | Iterable[str] | None

_DTYPE_BY_NAME = {kind.name: kind.dtype for kind in DTYPES.values()}


def tensors(
    inputs: Inputs, specs: Callable[[], tuple[TensorSpec, ...]]
) -> dict[str, tensor_pb2.Tensor]:
    """Returns the tensors to send, by input name.

    Args:
        inputs: What the caller gave. An array goes as it is, unless its type is one of numpy's
            defaults; those, lists and numbers take the type that the model states.
        specs: Asks what the model's inputs are; called only where that must be known.

    Raises:
        InvalidInput: A name is missing or unknown, or values do not fit the input's type.
    """
    if inputs is None:
        return {}
    if not isinstance(inputs, Mapping):
        inputs = {_only_input(specs()).name: inputs}
    return {name: _tensor(name, value, specs) for name, value in inputs.items()}


class Picture(NamedTuple):
    """A picture to send.

    Attributes:
        name: What to call it: its path, or its place among the images.
        data: A JPEG or PNG file.
    """

    name: str
    data: bytes


def pictures(given: Images, *, invert: bool) -> list[Picture]:
    """Returns the bytes of files as they are, and pixels as PNG files.

    Args:
        given: What the caller gave.
        invert: Whether to turn dark into bright, which makes PNG files of all.

    Raises:
        InvalidInput: Something that is no picture, or nothing to invert.
        OSError: A file cannot be read.
    """
    if given is None:
        given = []
    is_array = isinstance(given, np.ndarray) and given.ndim < 4
    is_one = isinstance(given, (str, Path, bytes)) or is_array or _is_pil(given)
    listed = [cast("Image", given)] if is_one else cast("Iterable[Image]", given)
    taken = [_picture(row, image, invert=invert) for row, image in enumerate(listed)]
    if invert and not taken:
        raise InvalidInput("invert is for pictures, and there are no images", field="images")
    return taken


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


def as_typed(name: str, value: ArrayLike, specs: Callable[[], tuple[TensorSpec, ...]]) -> Array:
    """Returns an input as an array of the type that it is sent with.

    Args:
        name: The input's.
        value: An array, a list or a data frame.
        specs: Gets the model's inputs; called where numpy or pandas may have chosen the type.

    Raises:
        InvalidInput: Its values have no place in the type that the model takes.
    """
    field = f"inputs.{name}"
    try:
        array = np.asarray(value)
        if not hasattr(value, "__array__") or _is_default(array):
            array = _typed(name, value, array, specs())
    except (TypeError, ValueError, OverflowError) as error:
        raise InvalidInput(f"{field}: {error}", field=field) from None
    return array


def _picture(row: int, image: Image, *, invert: bool) -> Picture:
    name = str(image) if isinstance(image, (str, Path)) else f"images[{row}]"
    data = _encoded(image)
    return Picture(name, _inverted(name, data) if invert else data)


def _inverted(name: str, data: bytes) -> bytes:
    from forwardpass.pixels import ImageError, invert_image

    try:
        return invert_image(data)
    except ImageError as error:
        raise InvalidInput(f"{name} cannot be inverted: {error}", field="images") from None


def _encoded(image: Image) -> bytes:
    if isinstance(image, bytes):
        return image
    if isinstance(image, (str, Path)):
        return Path(image).read_bytes()
    if isinstance(image, np.ndarray):
        return _of_pixels(image)
    if _is_pil(image):
        return _of_pil(image)
    raise InvalidInput(
        "images are paths or bytes of JPEG or PNG files, PIL images or uint8 arrays, got "
        f"{type(image).__name__}",
        field="images",
    )


def _is_pil(value: object) -> bool:
    # Who has one has imported it.
    module = sys.modules.get("PIL.Image")
    return module is not None and isinstance(value, module.Image)


def _of_pixels(pixels: NDArray[np.uint8]) -> bytes:
    from forwardpass.pixels import encode_png

    shaped = pixels[..., np.newaxis] if pixels.ndim == 2 else pixels
    if shaped.dtype != np.uint8 or shaped.ndim != 3 or shaped.shape[2] not in (1, 3):
        raise InvalidInput(
            "an array among the images is uint8 of (height, width), (height, width, 1) or (height, "
            f"width, 3), got {pixels.dtype} {pixels.shape}",
            field="images",
        )
    return encode_png(np.ascontiguousarray(shaped))


def _of_pil(image: "PIL.Image.Image") -> bytes:
    from PIL import ImageOps

    file = BytesIO()
    # A PNG would lose how a camera was held.
    ImageOps.exif_transpose(image).save(file, "PNG")
    return file.getvalue()


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
    array = as_typed(name, value, specs)
    try:
        return to_tensor(array)
    except (TypeError, ValueError, OverflowError) as error:
        field = f"inputs.{name}"
        raise InvalidInput(f"{field}: {error}", field=field) from None


def _is_default(array: Array) -> bool:
    """Whether numpy or pandas may have chosen the type, and not the caller."""
    return array.dtype in (np.float64, np.int64) or (
        array.dtype == object and not all(isinstance(item, str | bytes) for item in array.flat)
    )


def _typed(name: str, value: ArrayLike, array: Array, specs: tuple[TensorSpec, ...]) -> Array:
    """Returns an array of the type that the model states, of the same values but for rounding."""
    spec = next((spec for spec in specs if spec.name == name), None)
    if spec is None:
        names = ", ".join(spec.name for spec in specs)
        raise InvalidInput(
            f"the model has no input {name!r}: it takes {names}", field=f"inputs.{name}"
        )
    dtype = _DTYPE_BY_NAME.get(spec.dtype)
    if dtype is None:
        raise TypeError("its type is unknown to this version: give a numpy array instead of a list")
    # What pandas mixes are Python's own numbers.
    natural = np.asarray(array.tolist()) if array.dtype == object else array
    if natural.size and not _fits(natural.dtype, dtype):
        raise TypeError(f"takes {spec.dtype}, but the values are {natural.dtype.name}")
    if dtype.kind == "O":
        # numpy's own strings drop what is NUL at their ends.
        return np.asarray(value, dtype)
    if natural.dtype.kind not in "iuf":
        return natural.astype(dtype)
    return _cast(natural, dtype, spec.dtype)


def _cast(natural: Array, dtype: np.dtype[Any], name: str) -> Array:
    with np.errstate(invalid="ignore", over="ignore"):
        cast = natural.astype(dtype)
        # Back in the type that they came in, integers are the same, and floats within rounding:
        # numpy would cut 1.5 to 1, and 300 to 44.
        is_rounded = natural.dtype.kind == "f" and dtype.kind not in "iu"
        if is_rounded:
            is_same = np.isfinite(cast.astype(np.float64)) == np.isfinite(natural)
        else:
            is_same = cast.astype(natural.dtype) == natural
    if not is_same.all():
        wrong = natural[~is_same].flat[0]
        raise TypeError(f"takes {name}, in which {wrong} has no place; convert the values yourself")
    return cast


def _fits(natural: np.dtype[Any], dtype: np.dtype[Any]) -> bool:
    if dtype.kind == "O":
        return natural.kind in "USO"
    # ml_dtypes' bfloat16 is of kind "V", and takes what a float takes.
    return natural.kind in ("b" if dtype.kind == "b" else "iufb")
