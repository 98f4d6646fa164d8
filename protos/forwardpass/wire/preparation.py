"""How a picture becomes pixels of the size that a model takes."""

from dataclasses import dataclass
from enum import StrEnum

from forwardpass.v1 import model_card_pb2 as pb

# The most pixels that an image may claim in its header, whoever decodes it.
MAX_IMAGE_PIXELS = 64_000_000
# As 0xRRGGBB.
WHITE = 0xFFFFFF


class PreparationError(ValueError):
    """A preparation that there is not; the message says why."""


class Resize(StrEnum):
    """What becomes of a picture whose sides are in another ratio than the input's."""

    STRETCH = "stretch"
    CROP = "crop"


class Filter(StrEnum):
    """How pixels are mixed where a picture is resized; the names are Pillow's."""

    NEAREST = "nearest"
    BOX = "box"
    BILINEAR = "bilinear"
    BICUBIC = "bicubic"
    LANCZOS = "lanczos"


_RESIZE = {
    pb.RESIZE_MODE_UNSPECIFIED: Resize.STRETCH,
    pb.RESIZE_MODE_STRETCH: Resize.STRETCH,
    pb.RESIZE_MODE_CROP: Resize.CROP,
}
_FILTERS = {
    pb.RESIZE_FILTER_UNSPECIFIED: Filter.BILINEAR,
    pb.RESIZE_FILTER_NEAREST: Filter.NEAREST,
    pb.RESIZE_FILTER_BOX: Filter.BOX,
    pb.RESIZE_FILTER_BILINEAR: Filter.BILINEAR,
    pb.RESIZE_FILTER_BICUBIC: Filter.BICUBIC,
    pb.RESIZE_FILTER_LANCZOS: Filter.LANCZOS,
}


@dataclass(frozen=True, slots=True)
class Preparation:
    """What is done to a picture, after it was turned as its EXIF says.

    Attributes:
        resize: Whether all of it is stretched to the input's size ("stretch"), or the rest is cut
            off around as much of its middle as has the input's ratio ("crop").
        crop: Of "crop" which share of the greatest such middle is kept, in each direction, in
            (0, 1]; 0.875 is 224 pixels of 256.
        filter: How pixels are mixed: "nearest", "box", "bilinear", "bicubic" or "lanczos".
        background: What a transparent picture is laid on, as 0xRRGGBB.
        draft: Whether a JPEG may be decoded at a half, a quarter or an eighth of its size where
            that is at least twice the size it is resized to: several times as fast for photographs
            of a camera, with slightly other pixels.

    Raises:
        PreparationError: There is no such mode, filter or colour, or the share is not in (0, 1].
    """

    resize: Resize = Resize.STRETCH
    crop: float = 1.0
    filter: Filter = Filter.BILINEAR
    background: int = WHITE
    draft: bool = False

    def __post_init__(self) -> None:
        for name, kind in (("resize", Resize), ("filter", Filter)):
            value = getattr(self, name)
            if value not in tuple(kind):
                known = ", ".join(kind)
                raise PreparationError(f"{name} {value!r} is unknown; there are {known}")
            object.__setattr__(self, name, kind(value))
        if not 0 < self.crop <= 1:
            raise PreparationError(f"crop is {self.crop}, and a share is in (0, 1]")
        if self.crop != 1 and self.resize is not Resize.CROP:
            raise PreparationError(f"crop is {self.crop}, which needs resize {Resize.CROP}")
        if not 0 <= self.background <= WHITE:
            raise PreparationError(f"background is {self.background:#x}, and a colour is 0xRRGGBB")
        object.__setattr__(self, "crop", float(self.crop))

    def __str__(self) -> str:
        parts = [str(self.resize)]
        if self.crop != 1:
            parts.append(repr(self.crop))
        parts += [str(self.filter), f"on #{self.background:06x}"]
        return " ".join([*parts, *(["draft"] if self.draft else [])])


def from_preparation(message: pb.ImagePreparation) -> Preparation:
    """Returns what a message says.

    Raises:
        PreparationError: Something that there is not.
    """
    if message.resize not in _RESIZE or message.filter not in _FILTERS:
        raise PreparationError(
            f"resize {message.resize} or filter {message.filter} is unknown to this version"
        )
    return Preparation(
        _RESIZE[message.resize],
        message.crop if message.HasField("crop") else 1.0,
        _FILTERS[message.filter],
        message.background if message.HasField("background") else WHITE,
        message.draft,
    )


def to_preparation(preparation: Preparation) -> pb.ImagePreparation:
    """Returns the message that says the same."""
    return pb.ImagePreparation(
        resize=pb.ResizeMode.Value(f"RESIZE_MODE_{preparation.resize.name}"),
        crop=preparation.crop,
        filter=pb.ResizeFilter.Value(f"RESIZE_FILTER_{preparation.filter.name}"),
        background=preparation.background,
        draft=preparation.draft,
    )
