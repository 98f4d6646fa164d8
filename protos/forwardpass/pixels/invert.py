"""A picture to its negative."""

import io

import numpy as np
from PIL import Image, ImageChops, ImageOps

from forwardpass.pixels.decode import ImageError, flatten, open_image
from forwardpass.wire.preparation import WHITE


def invert_image(data: bytes) -> bytes:
    """Returns the negative of a JPEG or PNG file, as a PNG file of the same size.

    Greyscale stays greyscale, at 8 bits or at 16, and colour stays colour. What is transparent is
    laid on white first, as it is when it is decoded: black strokes on nothing, turned by
    themselves, would be white strokes on white.

    Raises:
        ImageError: It cannot be read.
    """
    image = open_image(data)
    try:
        ImageOps.exif_transpose(image, in_place=True)
        negative = _negative(image)
    except (OSError, ValueError, SyntaxError) as error:
        raise ImageError(f"the image is damaged: {error}") from None
    file = io.BytesIO()
    negative.save(file, "PNG")
    return file.getvalue()


def _negative(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        # 16 bits of grey, in one of several modes.
        return Image.fromarray((65535 - np.asarray(image)).astype(np.uint16))
    # Palettes, CMYK and the like become RGB.
    mode = "L" if image.mode in ("1", "L", "LA") else "RGB"
    return ImageChops.invert(flatten(image, mode, WHITE))
