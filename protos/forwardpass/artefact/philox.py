"""Random numbers that are the same on every machine: latent vectors, and variates to choose by.

Sample i of seed s is made of the words that the Philox 4x64-10 counter generator (Salmon et al.,
"Parallel random numbers: as easy as 1, 2, 3", SC 2011) gives for key (s, 0) and counter
(0, 0, i, 0). No state is carried from sample to sample, so a sample is the same alone and among
others.
"""

import numpy as np
from numpy.typing import NDArray

_SCALE = 2.0**-53


def draw_latents(seed: int, count: int, dimension: int, start: int = 0) -> NDArray[np.float32]:
    """Returns samples start .. start + count - 1 of a seed: float32 (count, dimension).

    The words are turned into normal variates by Box and Muller's transform (1958) in float64.

    Args:
        seed: In [0, 2**64).
        count: At least 0.
        dimension: Normal variates in one sample, at least 1.
        start: The first sample's number, at least 0.
    """
    pairs = (dimension + 1) // 2
    # In (0, 1]: never 0, so that the logarithm is finite.
    uniform = (_draw_bits(seed, count, 2 * pairs, start) + np.uint64(1)).astype(np.float64) * _SCALE
    radius = np.sqrt(-2.0 * np.log(uniform[:, :pairs]))
    angle = 2.0 * np.pi * uniform[:, pairs:]
    normal = np.concatenate([radius * np.cos(angle), radius * np.sin(angle)], axis=1)
    return normal[:, :dimension].astype(np.float32)


def draw_uniforms(seed: int, count: int, steps: int) -> NDArray[np.float64]:
    """Returns the numbers by which samples 0 .. count - 1 of a seed choose: (count, steps).

    They are uniform in [0, 1), and those of fewer steps are the first of those of more.

    Args:
        seed: In [0, 2**64).
        count: At least 0.
        steps: Choices of one sample, at least 0.
    """
    return _draw_bits(seed, count, steps).astype(np.float64) * _SCALE


def _draw_bits(seed: int, count: int, words: int, start: int = 0) -> NDArray[np.uint64]:
    """Returns the upper 53 bits of each sample's words: (count, words)."""
    bits = np.empty((count, words), np.uint64)
    for row in range(count):
        generator = np.random.Philox(
            key=np.array([seed, 0], np.uint64),
            counter=np.array([0, 0, start + row, 0], np.uint64),
        )
        bits[row] = generator.random_raw(words)
    return bits >> np.uint64(11)
