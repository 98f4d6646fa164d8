"""Bright strokes on dark, or dark on bright: whether a model knows pictures of the kind."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from forwardpass.client.card import Card, ImageInput
from forwardpass.client.inputs import Picture
from forwardpass.wire import Preparation

# By Cantelli's inequality fewer than one in a hundred numbers, however they are distributed, lie
# ten standard deviations or more from their mean on a given side.
_DEVIATIONS = 10
# Of pictures, below which their mean and deviation say little.
_TRAIN_ROWS = 100
# Versions of which a card is remembered: a server says which have answered.
_CARDS = 64
# Pictures of a call that are looked at, and pixels that are decoded for it.
_LOOKED_AT = 16
_PIXELS = 1 << 20
# Of a JPEG that is decoded at a fraction of its size, what all others cost.
_LEFT_OUT = 1 / 16


class PolarityWarning(UserWarning):
    """A picture is dark on bright, and the model learned from bright on dark; or the reverse."""


class PolarityCheck:
    """Looks at the pictures of one client's calls; asks once for the card of each version."""

    def __init__(self) -> None:
        self._cards: dict[tuple[str, int], Card | None] = {}

    def knows(self, version: tuple[str, int]) -> bool:
        """Whether a version's card, or that there is none, is remembered."""
        return version in self._cards

    def remember(self, version: tuple[str, int], card: Card | None) -> None:
        """Remembers a version's card."""
        if len(self._cards) >= _CARDS:
            self._cards.clear()
        self._cards[version] = card

    def look_at(
        self,
        pictures: Sequence[Picture],
        version: tuple[str, int],
        *,
        preparation: Preparation | None = None,
        inverted: bool,
    ) -> str:
        """Returns what to warn of; nothing where there is nothing, or no card is remembered.

        Args:
            pictures: As they were sent.
            version: Of the model that has answered, with its name.
            preparation: How they were prepared; None where they were as the card says.
            inverted: Whether they are as they are because the caller had them inverted.
        """
        card = self._cards.get(version)
        ground = known_ground(card)
        if card is None or card.image is None or ground is None:
            return ""
        image = replace(card.image, preparation=preparation) if preparation else card.image
        names = find_inverted(pictures, image, ground)
        title = "{} version {}".format(*version)
        return describe(names, title, ground, inverted=inverted) if names else ""


def known_ground(card: Card | None) -> float | None:
    """Returns the mean ground of the pictures that a model learned from, in [0, 1].

    None where it tells nothing: they are not known, or their grounds lie on both sides of middle
    grey, as those of photographs do.
    """
    if card is None or card.image is None or card.data is None or card.data.pixels is None:
        return None
    mean, deviation = card.data.pixels.ground_mean, card.data.pixels.ground_deviation
    if card.data.train_rows < _TRAIN_ROWS or abs(mean - 0.5) <= _DEVIATIONS * deviation:
        return None
    return mean


def are_inverted(pixels: NDArray[np.uint8], ground: float) -> NDArray[np.bool_]:
    """Returns for each of (rows, height, width, channels) whether its negative is nearer.

    Args:
        pixels: Pictures as the model gets them.
        ground: As `known_ground` gives it.
    """
    from forwardpass.pixels import grounds

    inverted: NDArray[np.bool_] = (grounds(pixels) > 0.5) != (ground > 0.5)
    return inverted


def find_inverted(pictures: Sequence[Picture], image: ImageInput, ground: float) -> list[str]:
    """Returns the names of those of the first 16 whose negatives are nearer to what is known.

    Passes over what cannot be read, and over large pictures when a million pixels were decoded.
    """
    from forwardpass.pixels import ImageError, open_image, to_pixels

    found = []
    left: float = _PIXELS
    side = 2 * max(image.height, image.width)
    for name, data in pictures[:_LOOKED_AT]:
        try:
            opened = open_image(data)
            whole = opened.width * opened.height
            opened.draft(None, (side, side))  # a JPEG
            decoded = opened.width * opened.height
            cost = decoded + _LEFT_OUT * (whole - decoded)
            if cost > left:
                continue
            left -= cost
            size = (image.height, image.width)
            pixels = to_pixels(opened, image.channels, size, image.preparation)
        except ImageError:
            # The server has said so in its own words.
            continue
        if are_inverted(pixels[np.newaxis], ground)[0]:
            found.append(name)
    return found


def describe(names: Sequence[str], model: str, ground: float, *, inverted: bool) -> str:
    """Returns the warning's text.

    Args:
        names: Of the pictures, at least one.
        model: Its name and version.
        ground: As `known_ground` gives it.
        inverted: Whether they are as they are because the caller had them inverted.
    """
    sides = ("dark", "bright")
    known, other = sides if ground < 0.5 else sides[::-1]
    more = f" (and {len(names) - 1} more)" if names[1:] else ""
    remedy = (
        "Leave out invert=True, or --invert"
        if inverted
        else "Give invert=True, or --invert on the command line, to send the negative"
    )
    return (
        f"{names[0]}{more}{', inverted,' if inverted else ''} has a {other} ground, and {model} "
        f"learned from pictures with a {known} one ({ground:.2f}, where 0 is black and 1 white): "
        f"the answer is likely to be wrong. {remedy}."
    )
