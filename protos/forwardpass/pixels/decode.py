"""Encoded image to pixels."""

import io
import warnings
from collections.abc import Sequence
from math import ceil

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from forwardpass.wire import MAX_IMAGE_PIXELS, Filter, Preparation, Resize

_WIRE_FORMATS = ("JPEG", "PNG")
# Those that files may have as well; of several frames the first is read.
FILE_FORMATS = (*_WIRE_FORMATS, "WEBP", "GIF", "TIFF", "BMP")
_MODES = {1: "L", 3: "RGB"}
# Of the modes that do not take four.
_BYTES_A_PIXEL = {"1": 1, "L": 1, "P": 1, "I;16": 2, "I;16B": 2}
# EXIF's tag; 1 is upright.
_ORIENTATION = 0x0112
_FILTERS = {
    Filter.NEAREST: Image.Resampling.NEAREST,
    Filter.BOX: Image.Resampling.BOX,
    Filter.BILINEAR: Image.Resampling.BILINEAR,
    Filter.BICUBIC: Image.Resampling.BICUBIC,
    Filter.LANCZOS: Image.Resampling.LANCZOS,
}
# Stretched, bilinear, on white.
_USUAL = Preparation()
# Rows that are converted at a time.
_STRIP = 128
# How much larger than wanted a draft is at least: Pillow's own measure for little loss.
_DRAFT_GAP = 2
# Pillow's own blocks, of 16 MiB, stay with the thread that has freed them. Larger ones than 32 MiB
# glibc maps, and gives back at once.
Image.core.set_block_size(64 << 20)  # type: ignore[attr-defined]  # of Pillow's C part


class ImageError(ValueError):
    """Bytes that are no usable image; the message says why."""


def decode_image(
    data: bytes,
    channels: int,
    size: tuple[int, int] | None = None,
    *,
    max_pixels: int = MAX_IMAGE_PIXELS,
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
    data: bytes, max_pixels: int = MAX_IMAGE_PIXELS, *, formats: Sequence[str] = _WIRE_FORMATS
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


def decoding_bytes(image: Image.Image, channels: int) -> int:
    """Returns the most memory that `to_pixels` takes of an image that was opened, in bytes."""
    mode = _MODES[channels]
    source = _BYTES_A_PIXEL.get(image.mode, 4)
    # One after the other, there is beside it: all coefficients of a progressive JPEG, until all of
    # it has been read; the image as it is turned; and as it is converted.
    coefficients = 2 * len(image.getbands()) if image.info.get("progressive") else 0
    # What a PNG has of EXIF may stand behind its pixels, which to ask would decode.
    is_upright = image.format != "PNG" and image.getexif().get(_ORIENTATION, 1) == 1
    turned = 0 if is_upright else source
    is_kept = image.mode == mode and not image.has_transparency_data
    converted = 0 if is_kept else _BYTES_A_PIXEL.get(mode, 4)
    return image.width * image.height * (source + max(coefficients, turned, converted))


def to_pixels(
    image: Image.Image,
    channels: int,
    size: tuple[int, int] | None = None,
    preparation: Preparation = _USUAL,
) -> NDArray[np.uint8]:
    """Returns the pixels of an image that was opened: uint8 (height, width, channels).

    The image is turned as its EXIF orientation says, laid on a background where it is transparent,
    converted, then resized with one of Pillow's antialiased filters.

    Args:
        image: As `open_image` gives it. It is closed.
        channels: 1 for greyscale (ITU-R 601-2 luma), 3 for RGB.
        size: (height, width) to resize to; None keeps the image's own.
        preparation: How.

    Raises:
        ImageError: It is damaged.
    """
    if size is not None and preparation.draft:
        side = ceil(_DRAFT_GAP * max(size) / preparation.crop)
        # Of other formats than JPEG this does nothing.
        image.draft(None, (side, side))
    try:
        image.load()
        ImageOps.exif_transpose(image, in_place=True)
        flat = flatten(image, _MODES[channels], preparation.background)
        resized = flat if size is None else _resize(flat, size, preparation)
        pixels = np.asarray(resized)
    except (OSError, ValueError, SyntaxError) as error:
        raise ImageError(f"the image is damaged: {error}") from None
    finally:
        # Whoever else has it, an error among them, holds nothing.
        image.close()
    return pixels.reshape(*pixels.shape[:2], channels)


def _resize(image: Image.Image, size: tuple[int, int], preparation: Preparation) -> Image.Image:
    height, width = size
    if preparation.resize is Resize.STRETCH and (width, height) == image.size:
        return image
    box = (0.0, 0.0, float(image.width), float(image.height))
    if preparation.resize is Resize.CROP:
        scale = min(image.width / width, image.height / height) * preparation.crop
        # Rounding must not bring it over the edge.
        left = max(0.0, (image.width - scale * width) / 2)
        top = max(0.0, (image.height - scale * height) / 2)
        box = (left, top, image.width - left, image.height - top)
    return image.resize((width, height), _FILTERS[preparation.filter], box)


def _unidentified(formats: Sequence[str]) -> str:
    if tuple(formats) == _WIRE_FORMATS:
        return "the bytes are neither a JPEG nor a PNG image"
    return f"the bytes are no image of a kind that is read: {', '.join(formats)}"


def _check_pixels(image: Image.Image, most: int) -> None:
    if image.width * image.height > most:
        raise ImageError(
            f"the image has {image.width} x {image.height} pixels; at most {most} are read"
        )


def flatten(image: Image.Image, mode: str, background: int) -> Image.Image:
    """Returns an image of another mode, through which nothing shows.

    It is made strip by strip, so that a large one is there twice and no more.

    Args:
        image: Of any mode.
        mode: "L" or "RGB".
        background: What shows through what is transparent, as 0xRRGGBB.
    """
    if image.mode == mode and not image.has_transparency_data:
        return image
    flat = Image.new(mode, image.size)
    for top in range(0, image.height, _STRIP):
        bottom = min(top + _STRIP, image.height)
        strip = image.crop((0, top, image.width, bottom))
        flat.paste(_opaque(strip, background).convert(mode), (0, top))
    return flat


def _opaque(image: Image.Image, background: int) -> Image.Image:
    """Lays a transparent image on a background, and brings 16-bit greyscale to 8 bits."""
    if image.mode.startswith("I"):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if not image.has_transparency_data:
        return image
    image = image.convert("RGBA")
    ground = Image.new("RGB", image.size, f"#{background:06x}")
    ground.paste(image, mask=image)
    return ground
