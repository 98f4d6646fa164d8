import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from forwardpass.pixels import (
    ImageError,
    decode_image,
    encode_png,
    grounds,
    image_grid,
    invert_image,
)


def encoded(image: Image.Image, form: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def png_that_claims(width: int, height: int) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(b"\0" * 64)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )


@pytest.mark.parametrize("channels", [1, 3])
def test_png_comes_back_pixel_for_pixel(channels: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, channels), np.uint8)
    assert (decode_image(encode_png(pixels), channels) == pixels).all()


def test_jpeg_is_resized_and_turned_as_its_exif_says() -> None:
    image = Image.new("L", (40, 20))
    image.paste(255, (0, 0, 20, 20))
    exif = Image.Exif()
    exif[0x0112] = 6  # Turn by 90 degrees clockwise: the white left half comes to the top.
    pixels = decode_image(encoded(image, "JPEG", exif=exif), 1, (8, 4))
    assert pixels.shape == (8, 4, 1)
    assert pixels[:3].min() > 240
    assert pixels[5:].max() < 16


def test_transparency_is_laid_on_white() -> None:
    image = Image.new("RGBA", (2, 2), (0, 0, 0, 0))
    assert (decode_image(encoded(image, "PNG"), 3) == 255).all()


def test_sixteen_bit_grey_keeps_its_upper_bits() -> None:
    image = Image.fromarray(np.array([[0, 256, 65535]], np.uint16))
    assert decode_image(encoded(image, "PNG"), 1).ravel().tolist() == [0, 1, 255]


def test_a_bomb_is_refused_by_its_header() -> None:
    with pytest.raises(ImageError, match="too many pixels; at most 64000000 "):
        decode_image(png_that_claims(20_000, 20_000), 1)
    with pytest.raises(ImageError, match="9000 x 9000 pixels; at most 64000000 "):
        decode_image(png_that_claims(9_000, 9_000), 1)
    with pytest.raises(ImageError, match="at most 3 "):
        decode_image(png_that_claims(2, 2), 1, max_pixels=3)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"GIF89a" + bytes(100),
        b"SIMPLE  =                    T",
        encoded(Image.new("L", (9, 9)), "GIF"),
        encoded(Image.new("L", (9, 9)), "BMP"),
    ],
)
def test_other_formats_are_refused(data: bytes) -> None:
    with pytest.raises(ImageError, match="neither a JPEG nor a PNG"):
        decode_image(data, 1)


@pytest.mark.parametrize("form", ["PNG", "JPEG"])
def test_a_truncated_image_is_refused(form: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64), np.uint8)
    data = encoded(Image.fromarray(noise), form)
    with pytest.raises(ImageError, match="damaged"):
        decode_image(data[: len(data) // 2], 1)


def test_a_grid_has_every_image_in_its_place() -> None:
    images = np.arange(5, dtype=np.uint8)[:, None, None, None] * np.ones((1, 3, 4, 1), np.uint8)
    grid = image_grid(images, columns=2, gap=1)
    assert grid.shape == (3 * 4 + 1, 2 * 5 + 1, 1)
    assert (grid[9:12, 1:5] == 4).all()
    assert (grid[5:8, 6:10] == 3).all()


def test_the_ground_is_the_median_of_the_outermost_pixels() -> None:
    images = np.zeros((3, 6, 5, 3), np.uint8)
    images[0, 1:-1, 1:-1] = 255  # what lies within is no ground
    images[0, 0, :3] = 255  # nor is what reaches the border here and there
    images[1] = 255
    images[2] = (0, 51, 255)
    np.testing.assert_allclose(grounds(images), [0, 1, 0.4])


@pytest.mark.parametrize("mode", ["1", "L", "RGB", "RGBA", "P", "CMYK", "I;16"])
def test_a_negative_has_the_size_and_kind_of_the_picture(mode: str) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (5, 7, 3), np.uint8)
    image = Image.fromarray(pixels)
    if mode == "I;16":
        image = Image.fromarray(pixels[..., 0].astype(np.uint16) << 8 | 37)
    elif mode != "RGB":
        image = image.convert(mode)
    data = encoded(image, "JPEG" if mode == "CMYK" else "PNG")
    negative = Image.open(io.BytesIO(invert_image(data)))
    assert (negative.format, negative.size) == ("PNG", (7, 5))
    assert negative.mode == {"L": "L", "1": "L", "I;16": "I;16"}.get(mode, "RGB")
    channels = 1 if mode in ("1", "L", "I;16") else 3
    assert (decode_image(invert_image(data), channels) == 255 - decode_image(data, channels)).all()


def test_a_negative_lies_as_the_camera_was_held() -> None:
    image = Image.new("L", (40, 20))
    image.paste(255, (0, 0, 20, 20))
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(image, "JPEG", exif=exif)
    assert (decode_image(invert_image(data), 1) == 255 - decode_image(data, 1)).all()


def test_strokes_on_nothing_are_seen_in_the_negative() -> None:
    # Black on transparent, which is laid on white.
    image = Image.new("RGBA", (4, 4), (0, 0, 0, 0))
    image.putpixel((1, 2), (0, 0, 0, 255))
    pixels = decode_image(invert_image(encoded(image, "PNG")), 1)
    assert pixels[2, 1] == 255
    assert pixels.sum() == 255


@pytest.mark.parametrize("data", [b"no picture", encode_png(np.zeros((50, 50, 3), np.uint8))[:60]])
def test_what_cannot_be_read_has_no_negative(data: bytes) -> None:
    with pytest.raises(ImageError):
        invert_image(data)
