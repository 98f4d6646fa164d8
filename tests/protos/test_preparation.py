"""How pictures are prepared: what is said of it, what is done, and what that takes."""

import io
import itertools
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from forwardpass.artefact import CardError, card_from_json, card_to_json, space_id
from forwardpass.pixels import open_image, to_pixels
from forwardpass.v1 import model_card_pb2 as pb
from forwardpass.wire import (
    Filter,
    Preparation,
    PreparationError,
    Resize,
    from_preparation,
    to_preparation,
)

RNG = np.random.default_rng(5)
NOISE = Image.fromarray(RNG.integers(0, 256, (100, 200, 3), np.uint8))
CROP = Preparation(Resize.CROP)


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def pixels(image: Image.Image, size: tuple[int, int], preparation: Preparation) -> Image.Image:
    return Image.fromarray(to_pixels(open_image(encoded(image)), 3, size, preparation))


def test_every_preparation_comes_over_the_wire() -> None:
    for resize, crop, kind, background, draft in itertools.product(
        Resize, (1.0, 0.875), Filter, (0, 0xFFFFFF), (False, True)
    ):
        if crop == 1 or resize is Resize.CROP:
            preparation = Preparation(resize, crop, kind, background, draft)
            assert from_preparation(to_preparation(preparation)) == preparation
    assert from_preparation(pb.ImagePreparation()) == Preparation()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"resize": "zoom"}, "'zoom' is unknown; there are stretch, crop"),
        ({"filter": "sharp"}, "'sharp' is unknown; there are nearest, box, "),
        ({"resize": "crop", "crop": 0}, r"in \(0, 1\]"),
        ({"resize": "crop", "crop": 1.01}, r"in \(0, 1\]"),
        ({"resize": "crop", "crop": float("nan")}, r"in \(0, 1\]"),
        ({"crop": 0.5}, "needs resize crop"),
        ({"background": 1 << 24}, "0xRRGGBB"),
    ],
)
def test_what_there_is_not_is_refused(fields: dict[str, object], message: str) -> None:
    with pytest.raises(PreparationError, match=message):
        Preparation(**fields)  # type: ignore[arg-type]  # as callers may


def test_a_card_that_asks_for_what_there_is_not_is_refused() -> None:
    card = pb.ModelCard(image=pb.ImageInput(preparation=pb.ImagePreparation(crop=0.5)))
    with pytest.raises(CardError, match="preparation of images: crop is 0"):
        card_from_json(card_to_json(card))
    with pytest.raises(PreparationError, match="unknown to this version"):
        from_preparation(pb.ImagePreparation(filter=99))  # type: ignore[arg-type]  # a later one


@pytest.mark.parametrize(("share", "whole"), [(1, 10), (0.625, 16)])
def test_a_crop_is_the_middle_of_the_whole_resized(share: float, whole: int) -> None:
    """As others do it in two steps: at 0.875 they resize to 256, and keep 224."""
    wide = NOISE.resize((2 * whole, whole), Image.Resampling.BILINEAR)
    left, top = whole - 5, whole // 2 - 5
    middle = wide.crop((left, top, left + 10, top + 10))
    preparation = Preparation(Resize.CROP, share)
    assert pixels(NOISE, (10, 10), preparation) == middle
    # Where the sides are swapped it is above and below.
    turn = Image.Transpose.TRANSPOSE
    assert pixels(NOISE.transpose(turn), (10, 10), preparation) == middle.transpose(turn)


def test_a_crop_of_the_very_size_is_cut_and_nothing_else() -> None:
    assert pixels(NOISE, (100, 100), CROP) == NOISE.crop((50, 0, 150, 100))


@pytest.mark.parametrize("size", [(1, 1), (3, 7), (997, 13), (100, 200)])
def test_every_size_can_be_cropped(size: tuple[int, int]) -> None:
    for shape in ((1, 1), (1, 977), (977, 1), (31, 17)):
        image = Image.new("RGB", shape)
        assert pixels(image, size, Preparation(Resize.CROP, 0.3)).size == size[::-1]


@pytest.mark.parametrize("kind", list(Filter))
def test_filters_are_those_of_pillow(kind: Filter) -> None:
    right = NOISE.resize((9, 5), Image.Resampling[kind.name])
    assert pixels(NOISE, (5, 9), Preparation(filter=kind)) == right


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "L"])
def test_what_is_transparent_shows_the_background(mode: str) -> None:
    image = Image.new("RGBA", (300, 300), (255, 0, 0, 0))
    image.paste((0, 255, 0, 255), (0, 0, 300, 150))
    options: dict[str, Any] = {}
    if mode == "P":
        image = image.convert("RGB").quantize(2)
        options["transparency"] = image.getpixel((0, 299))
    elif mode == "L":
        image = Image.new("L", (300, 300), 7)
        options["transparency"] = 7
    else:
        image = image.convert(mode)
    opened = open_image(encoded(image, **options))
    shown = to_pixels(opened, 3, None, Preparation(background=0x102030))
    assert shown[299, 299].tolist() == [0x10, 0x20, 0x30]
    if mode != "L":
        assert shown[0, 0].tolist() != [0x10, 0x20, 0x30]


def test_a_draft_is_decoded_at_a_fraction_and_nearly_the_same() -> None:
    photo = NOISE.resize((1600, 1200), Image.Resampling.BICUBIC)
    jpeg = encoded(photo, "JPEG", quality=95)
    opened = open_image(jpeg)
    drafted = to_pixels(opened, 3, (75, 100), Preparation(draft=True))
    assert opened.size == (400, 300)
    whole = to_pixels(open_image(jpeg), 3, (75, 100))
    assert 0 < np.abs(drafted.astype(int) - whole).mean() < 2
    # Of one that is no larger nothing is saved, and nothing lost.
    small = encoded(NOISE, "JPEG")
    np.testing.assert_array_equal(
        to_pixels(open_image(small), 3, (75, 100), Preparation(draft=True)),
        to_pixels(open_image(small), 3, (75, 100)),
    )


def test_vectors_of_pictures_prepared_in_another_way_have_another_id() -> None:
    usual = space_id("digest", "vector")
    ids = {usual, space_id("digest", "vector", Preparation()), space_id("digest", "vector", CROP)}
    ids |= {space_id("digest", "vector", Preparation(Resize.CROP, 0.875))}
    assert len(ids) == 4


_PEAK = """
import sys
from forwardpass.pixels import decoding_bytes, open_image, to_pixels
def kibibytes(name):
    status = open("/proc/self/status").read()
    return int(next(line for line in status.splitlines() if line.startswith(name)).split()[1])
for channels in 1, 3:
    for path in sys.argv[1:]:
        # What a first picture brings with it is not the second's.
        to_pixels(open_image(open(path + ".small", "rb").read()), channels, (8, 8))
        data = open(path, "rb").read()
        open("/proc/self/clear_refs", "w").write("5")
        before = kibibytes("VmRSS")
        image = open_image(data)
        said = decoding_bytes(image, channels)
        to_pixels(image, channels, (8, 8))
        print(said, (kibibytes("VmHWM") - before) * 1024)
"""
# Of a strip, which is there beside the rest.
_ROOM = 8 << 20


@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
def test_decoding_takes_no_more_memory_than_is_said(tmp_path: Path) -> None:
    kinds: list[tuple[str, str, dict[str, Any]]] = [
        *(("PNG", mode, {}) for mode in ("L", "P", "LA", "RGB", "RGBA", "I;16")),
        *(("JPEG", mode, {}) for mode in ("L", "RGB", "CMYK")),
        ("JPEG", "RGB", {"progressive": True, "subsampling": 0}),
        ("JPEG", "CMYK", {"progressive": True}),
        ("JPEG", "RGB", {"turned": True}),
    ]
    paths = []
    for number, (kind, mode, options) in enumerate(kinds):
        exif = Image.Exif()
        exif[0x0112] = 6 if options.get("turned") else 1
        for name, side in ((f"{number}.small", 64), (f"{number}", 2500)):
            Image.new(mode, (side, side)).save(tmp_path / name, kind, exif=exif, **options)
        paths.append(str(tmp_path / str(number)))
    program = [sys.executable, "-c", _PEAK, *paths]
    # What is freed is given back at once, so that the next picture's is seen.
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"}
    ended = subprocess.run(program, capture_output=True, text=True, check=True, env=environment)
    measured = [tuple(map(int, line.split())) for line in ended.stdout.splitlines()]
    assert len(measured) == 2 * len(kinds)
    for (said, taken), of in zip(measured, 2 * kinds, strict=True):
        # And it is no idle number.
        assert taken - _ROOM < said < 2 * taken + _ROOM, (of, said, taken)


_IN_TURN = """
import io, threading
from PIL import Image
from forwardpass.pixels import ByteBudget, decoding_bytes, open_image, to_pixels
file = io.BytesIO()
Image.new("L", (7990, 7990)).save(file, "PNG")
budget = ByteBudget(1)
def decode():
    image = open_image(file.getvalue())
    with budget.use(decoding_bytes(image, 1)):
        to_pixels(image, 1, (8, 8))
    kept.append(image)
kept = []
for _ in range(2):
    threads = [threading.Thread(target=decode) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
status = open("/proc/self/status").read().splitlines()
print(*[line.split()[1] for line in status if line.startswith(("VmHWM", "VmRSS"))])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
def test_what_was_decoded_stays_with_nobody() -> None:
    """Neither with each thread, as what is malloc's may, nor with who has opened an image."""
    ended = subprocess.run(
        [sys.executable, "-c", _IN_TURN], capture_output=True, text=True, check=True
    )
    most, left = (int(text) * 1024 for text in ended.stdout.split())
    # The program has some 40 MB, and each image was 64; to ask for its size decodes nothing.
    assert most < 160_000_000
    assert left < 80_000_000
