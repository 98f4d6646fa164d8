"""What the networks for ImageNet (Russakovsky et al., 2015) agree on."""

from forwardpass.trainer.models.pixels import NormalizeChannels

CLASSES = 1_000
# Of the training pixels, in [0, 1]: red, green, blue.
_MEAN, _DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def normalize_pixels() -> NormalizeChannels:
    """Returns the first layer: from uint8 (n, h, w, 3), red first, to float32 (n, 3, h, w)."""
    return NormalizeChannels(_MEAN, _DEVIATION)
