"""The pictures of a request."""

import os
from collections.abc import Iterable
from io import BytesIO, TextIOBase
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from forwardpass.client.errors import InvalidInput
from forwardpass.client.inputs.arrays import as_array, is_array
from forwardpass.client.inputs.frames import cells
from forwardpass.client.inputs.libraries import is_instance
from forwardpass.wire import Array

if TYPE_CHECKING:
    import PIL.Image


class BinaryFile(Protocol):
    """A file that is open for reading in binary mode."""

    def read(self) -> bytes:
        """Returns the rest of it."""
        ...


class PixelArray(Protocol):
    """An array of another library than numpy, such as a tensor of torch."""

    def __array__(self) -> NDArray[Any]:
        """Returns its pixels."""
        ...


# A JPEG or PNG file, as its path, its bytes or an open file; a PIL image; or pixels: uint8 (height,
# width), or with 1 or 3 channels, which come last or first.
Image: TypeAlias = (
    "str | os.PathLike[Any] | bytes | bytearray | memoryview | BinaryFile | PIL.Image.Image | "
    "NDArray[np.uint8] | PixelArray"
)
Images: TypeAlias = "Image | Iterable[Image] | None"

_CHANNELS = (1, 3)
_IS_FILE = (str, os.PathLike, bytes, bytearray, memoryview)
# What a PNG holds as it is. All else becomes RGB, with transparency where there is some.
_PNG_MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16", "I;16B")
_TRANSPARENT_MODES = {"La": "LA", "RGBa": "RGBA", "PA": "RGBA"}


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
        given: What the caller gave: one picture, or any iterable of them; a generator is taken
            once. An array of 4 axes holds several pictures. One of 3 axes that may be one with
            channels first, or three in greyscale, is refused.
        invert: Whether to turn dark into bright, which makes PNG files of all.

    Raises:
        InvalidInput: Something that is no picture, or nothing to invert.
        OSError: A file cannot be read.
    """
    taken = [_picture(row, image, invert=invert) for row, image in enumerate(_listed(given))]
    if invert and not taken:
        raise InvalidInput("invert is for pictures, and there are no images", field="images")
    return taken


def _listed(given: Any) -> Iterable[Any]:
    if given is None:
        return []
    if isinstance(given, _IS_FILE) or _is_pil(given) or hasattr(given, "read"):
        return [given]
    if isinstance(given, np.ndarray) and given.dtype.kind in "OUS":
        paths: list[Any] = given.ravel().tolist()
        return paths
    return _of_array(given) if is_array(given) else cells(given, "images")


def _of_array(given: Any) -> Iterable[Any]:
    array = _as_pixels(given, "images")
    if array.ndim == 4:
        return array
    # Of a list it would be clear, and one in greyscale is the same either way.
    if array.ndim == 3 and array.shape[2] not in _CHANNELS and array.shape[0] != 1:
        raise InvalidInput(
            f"images: an array of shape {array.shape} may be one picture or {len(array)} in "
            "greyscale: give [array] for one of (channels, height, width), list(array) for several",
            field="images",
        )
    return [array]


def _picture(row: int, image: Any, *, invert: bool) -> Picture:
    field = f"images[{row}]"
    is_path = isinstance(image, (str, os.PathLike))
    name = os.fsdecode(image) if is_path else field
    data = _encoded(image, field)
    return Picture(name, _inverted(name, data, field) if invert else data)


def _inverted(name: str, data: bytes, field: str) -> bytes:
    from forwardpass.pixels import ImageError, invert_image

    try:
        return invert_image(data)
    except ImageError as error:
        raise InvalidInput(f"{name} cannot be inverted: {error}", field=field) from None


def _encoded(image: Any, field: str) -> bytes:
    if isinstance(image, (str, os.PathLike)):
        return Path(os.fsdecode(image)).read_bytes()
    if isinstance(image, (bytes, bytearray, memoryview)):
        return bytes(image)
    if _is_pil(image):
        return _of_pil(image, field)
    if hasattr(image, "read"):
        return _of_file(image, field)
    if is_array(image):
        return _of_pixels(_as_pixels(image, field), field)
    raise InvalidInput(
        f"{field}: images are paths, bytes or open files of JPEG or PNG, PIL images or uint8 "
        f"arrays, got {type(image).__name__}",
        field=field,
    )


def _is_pil(value: object) -> bool:
    return is_instance(value, "PIL.Image", "Image")


def _of_file(file: Any, field: str) -> bytes:
    if isinstance(file, TextIOBase):
        raise InvalidInput(
            f'{field}: the file is open in text mode: open it in binary mode, as open(path, "rb")',
            field=field,
        )
    try:
        data = file.read()
    except ValueError as error:
        # It is closed, or open for writing.
        raise InvalidInput(
            f'{field}: the file cannot be read: {error}; open it with open(path, "rb")', field=field
        ) from None
    if not isinstance(data, bytes):
        raise InvalidInput(
            f"{field}: the file gives {type(data).__name__}, expected bytes: open it in binary "
            "mode",
            field=field,
        )
    if not data:
        raise InvalidInput(
            f"{field}: nothing is left to read of the file, which is read from where it stands: "
            "call seek(0) where it was read before",
            field=field,
        )
    return data


def _as_pixels(image: Any, field: str) -> Array:
    try:
        return as_array(image)
    except (TypeError, ValueError) as error:
        raise InvalidInput(f"{field}: {error}", field=field) from None


def _of_pixels(pixels: Array, field: str) -> bytes:
    from forwardpass.pixels import encode_png

    shaped = pixels[..., np.newaxis] if pixels.ndim == 2 else pixels
    if shaped.ndim == 3 and shaped.shape[2] not in _CHANNELS and shaped.shape[0] in _CHANNELS:
        # As torch has them.
        shaped = np.moveaxis(shaped, 0, 2)
    if (
        shaped.dtype != np.uint8
        or shaped.ndim != 3
        or shaped.shape[2] not in _CHANNELS
        or not shaped.size
    ):
        raise InvalidInput(
            f"{field}: an array among the images is uint8 of (height, width), or with 1 or 3 "
            f"channels, which come last or first; got {pixels.dtype} {pixels.shape}"
            f"{_advice(pixels)}",
            field=field,
        )
    return encode_png(np.ascontiguousarray(shaped))


def _advice(pixels: Array) -> str:
    if pixels.dtype != np.uint8:
        return ": scale to 0 to 255, round and convert to uint8"
    if pixels.ndim == 3 and pixels.shape[2] == 4:
        return ": drop the fourth channel, as pixels[..., :3]"
    return ""


def _of_pil(image: "PIL.Image.Image", field: str) -> bytes:
    from PIL import ImageOps

    if not image.width * image.height:
        raise InvalidInput(f"{field}: the picture has no pixels", field=field)
    file = BytesIO()
    try:
        # A PNG would lose how a camera was held.
        _as_png_mode(ImageOps.exif_transpose(image), field).save(file, "PNG")
    except (OSError, SyntaxError, ValueError) as error:
        raise InvalidInput(f"{field}: the picture cannot be read: {error}", field=field) from None
    return file.getvalue()


def _as_png_mode(image: "PIL.Image.Image", field: str) -> "PIL.Image.Image":
    if image.mode in _PNG_MODES:
        return image
    if image.mode in ("F", "I"):
        # Whether its white is 1, 255 or 65535 it does not say.
        raise InvalidInput(
            f"{field}: a picture of mode {image.mode} does not say which value is white: scale it "
            'to 0 to 255 and give image.convert("L")',
            field=field,
        )
    if image.mode.startswith("I;16"):
        return image.convert("I;16")
    return image.convert(_TRANSPARENT_MODES.get(image.mode, "RGB"))
