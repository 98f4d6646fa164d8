"""What pictures of every kind become, and what bad ones cost."""

import io
import threading
from collections.abc import Callable
from contextlib import suppress

import numpy as np
import pytest
from PIL import Image

from forwardpass.client.card import ImageInput
from forwardpass.client.jobs.pictures import Decoder
from forwardpass.client.jobs.reading import RowError
from forwardpass.pixels import ByteBudget

IMAGE = ImageInput("image", 6, 5, 3)


def encoded(
    kind: str, mode: str = "RGB", size: tuple[int, int] = (20, 10), **options: object
) -> bytes:
    file = io.BytesIO()
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (*size[::-1], 3), np.uint8)).convert(mode)
    image.save(file, kind, **options)
    return file.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP"])
def test_every_kind_is_read(kind: str) -> None:
    picture = Decoder(IMAGE, invert=False).decode(encoded(kind))
    assert picture.pixels.shape == (6, 5, 3)
    assert (picture.width, picture.height) == (20, 10)
    negative = Decoder(IMAGE, invert=True).decode(encoded(kind))
    np.testing.assert_array_equal(negative.pixels, 255 - picture.pixels)


def test_of_several_frames_the_first_is_read() -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    file = io.BytesIO()
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:])
    pixels = Decoder(IMAGE, invert=False).decode(file.getvalue()).pixels
    assert pixels[0, 0].tolist() == [255, 0, 0]


def test_a_damaged_file_is_an_error_whatever_it_makes_a_decoder_do() -> None:
    decoder = Decoder(IMAGE, invert=False)
    rng = np.random.default_rng(7)
    for kind in ("PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP"):
        whole = encoded(kind)
        for _ in range(60):
            data = bytearray(whole)
            for place in rng.integers(0, len(data), 8):
                data[place] = rng.integers(0, 256)
            # Nothing but a RowError, or a picture that is damaged where nobody can tell.
            with suppress(RowError):
                decoder.decode(bytes(data[: rng.integers(1, len(data) + 1)]))


def test_a_bomb_is_refused_by_its_header() -> None:
    file = io.BytesIO()
    Image.new("1", (9_000, 9_000)).save(file, "PNG")
    with pytest.raises(RowError, match="at most 64000000 are read"):
        Decoder(IMAGE, invert=False).decode(file.getvalue())


def test_large_pictures_are_decoded_one_after_the_other() -> None:
    budget = ByteBudget(100)
    inside = 0
    most = 0
    lock = threading.Lock()

    def use(size: int) -> None:
        nonlocal inside, most
        with budget.use(size):
            with lock:
                inside += 1
                most = max(most, inside)
            turn.wait(0.01)
            with lock:
                inside -= 1

    def run(sizes: list[int]) -> int:
        nonlocal most
        most = 0
        threads = [threading.Thread(target=use, args=(size,)) for size in sizes]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return most

    turn = threading.Event()
    assert run([1000, 1000, 1000]) == 1
    assert run([60, 60, 60]) == 1
    assert run([30] * 9) <= 3


def test_no_memory_is_an_error_of_that_file(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise MemoryError

    make: Callable[..., object] = fail
    monkeypatch.setattr(Image.Image, "resize", make)
    with pytest.raises(RowError, match="not enough memory to decode it"):
        Decoder(IMAGE, invert=False).decode(encoded("PNG"))
