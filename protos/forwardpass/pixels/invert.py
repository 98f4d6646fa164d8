"""A picture to its negative."""

import io

import numpy as np
from PIL import Image, ImageChops, ImageOps

from forwardpass.pixels.decode import ImageError, lay_on_white, open_image


def invert_image(data: bytes) -> bytes:
    """Returns the negative of a JPEG or PNG file, as a PNG file of the same size.

    Greyscale stays greyscale, at 8 bits or at 16, and colour stays colour. What is transparent is
    laid on white first, as it is when it is decoded: black strokes on nothing, turned by
    themselves, would be white strokes on white. An alpha channel that hides nothing stays.

    Raises:
        ImageError: It cannot be read.
    """
    image = open_image(data)
    try:
        negative = _negative(ImageOps.exif_transpose(image))
    except (OSError, ValueError, SyntaxError) as error:
        raise ImageError(f"the image is damaged: {error}") from None
    file = io.BytesIO()
    negative.save(file, "PNG")
    return file.getvalue()


def _negative(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        # 16 bits of grey, in one of several modes.
        return Image.fromarray((65535 - np.asarray(image)).astype(np.uint16))
    image = lay_on_white(image)
    if image.mode == "RGBA":
        *colours, alpha = image.split()
        return Image.merge("RGBA", [*map(ImageChops.invert, colours), alpha])
    # Palettes, CMYK and the like.
    return ImageChops.invert(image if image.mode in ("1", "L") else image.convert("RGB"))
