"""JPEG and PNG to pixels and back, the same way in the trainer, the server and the client.

An image is uint8 of shape (height, width, channels): 1 channel is greyscale, 3 are RGB.
"""

from forwardpass.pixels.budget import ByteBudget
from forwardpass.pixels.decode import (
    FILE_FORMATS,
    ImageError,
    decode_image,
    decoding_bytes,
    open_image,
    to_pixels,
)
from forwardpass.pixels.encode import encode_png, image_grid
from forwardpass.pixels.ground import grounds
from forwardpass.pixels.invert import invert_image

__all__ = [
    "FILE_FORMATS",
    "ByteBudget",
    "ImageError",
    "decode_image",
    "decoding_bytes",
    "encode_png",
    "grounds",
    "image_grid",
    "invert_image",
    "open_image",
    "to_pixels",
]
