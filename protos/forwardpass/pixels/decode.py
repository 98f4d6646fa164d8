"""Encoded image to pixels."""

import io
import warnings
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

# The most pixels an image may claim in its header: 64 million take 192 MB as RGB.
MAX_PIXELS = 64_000_000
_WIRE_FORMATS = ("JPEG", "PNG")
# Those that files may have as well; of several frames the first is read.
FILE_FORMATS = (*_WIRE_FORMATS, "WEBP", "GIF", "TIFF", "BMP")
_MODES = {1: "L", 3: "RGB"}


class ImageError(ValueError):
    """Bytes that are no usable image; the message says why."""


def decode_image(
    data: bytes,
    channels: int,
    size: tuple[int, int] | None = None,
    *,
    max_pixels: int = MAX_PIXELS,
) -> NDArray[np.uint8]:
    """Returns the image's pixels: uint8 (height, width, channels).

    Args:
        data: A whole JPEG or PNG file.
        channels: As for `to_pixels`.
        size: As for `to_pixels`.
        max_pixels: As for `open_image`.

    Raises:
        ImageError: Neither JPEG nor PNG, too many pixels, or damaged.
    """
    return to_pixels(open_image(data, max_pixels), channels, size)


def open_image(
    data: bytes, max_pixels: int = MAX_PIXELS, *, formats: Sequence[str] = _WIRE_FORMATS
) -> Image.Image:
    """Returns an image of which only the header has been read, which tells its size.

    Args:
        data: A whole file.
        max_pixels: The most pixels the header may claim.
        formats: Those that are read, as Pillow calls them.

    Raises:
        ImageError: Of none of the formats, or too many pixels.
    """
    try:
        with warnings.catch_warnings():
            # Our own limit is checked below; Pillow's would only warn.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image: Image.Image = Image.open(io.BytesIO(data), formats=tuple(formats))
    except UnidentifiedImageError:
        raise ImageError(_unidentified(formats)) from None
    except Image.DecompressionBombError:
        raise ImageError(f"the image has too many pixels; at most {max_pixels} are read") from None
    except (OSError, ValueError, SyntaxError) as error:
        raise ImageError(f"the image is damaged: {error}") from None
    _check_pixels(image, max_pixels)
    return image


def to_pixels(
    image: Image.Image, channels: int, size: tuple[int, int] | None = None
) -> NDArray[np.uint8]:
    """Returns the pixels of an image that was opened: uint8 (height, width, channels).

    The image is turned as its EXIF orientation says, laid on white where it is transparent,
    converted, then resized with Pillow's antialiased bilinear filter.

    Args:
        image: As `open_image` gives it.
        channels: 1 for greyscale (ITU-R 601-2 luma), 3 for RGB.
        size: (height, width) to resize to; None keeps the image's own.

    Raises:
        ImageError: It is damaged.
    """
    try:
        image = _flatten(ImageOps.exif_transpose(image)).convert(_MODES[channels])
    except (OSError, ValueError, SyntaxError) as error:
        raise ImageError(f"the image is damaged: {error}") from None
    if size is not None and size != (image.height, image.width):
        image = image.resize((size[1], size[0]), Image.Resampling.BILINEAR)
    pixels = np.asarray(image)
    return pixels.reshape(*pixels.shape[:2], channels)


def _unidentified(formats: Sequence[str]) -> str:
    if tuple(formats) == _WIRE_FORMATS:
        return "the bytes are neither a JPEG nor a PNG image"
    return f"the bytes are no image of a kind that is read: {', '.join(formats)}"


def _check_pixels(image: Image.Image, most: int) -> None:
    if image.width * image.height > most:
        raise ImageError(
            f"the image has {image.width} x {image.height} pixels; at most {most} are read"
        )


def lay_on_white(image: Image.Image) -> Image.Image:
    """Returns an image through which nothing shows: what was transparent is white."""
    if not image.has_transparency_data:
        return image
    rgba = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)


def _flatten(image: Image.Image) -> Image.Image:
    """Lays a transparent image on white, and brings 16-bit greyscale to 8 bits."""
    if image.mode in ("I", "I;16", "I;16B"):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    return lay_on_white(image)
