"""Latent vectors that are the same on every machine.

Sample i of seed s is made of the words that the Philox 4x64-10 counter generator (Salmon et al.,
"Parallel random numbers: as easy as 1, 2, 3", SC 2011) gives for key (s, 0) and counter
(0, 0, i, 0), turned into normal variates by Box and Muller's transform (1958) in float64. No state
is carried from sample to sample, so a sample is the same alone and among others.
"""

import numpy as np
from numpy.typing import NDArray

_SCALE = 2.0**-53


def draw_latents(seed: int, count: int, dimension: int, start: int = 0) -> NDArray[np.float32]:
    """Returns samples start .. start + count - 1 of a seed: float32 (count, dimension).

    Args:
        seed: In [0, 2**64).
        count: At least 0.
        dimension: Normal variates in one sample, at least 1.
        start: The first sample's number, at least 0.
    """
    pairs = (dimension + 1) // 2
    words = np.empty((count, 2 * pairs), np.uint64)
    for row in range(count):
        generator = np.random.Philox(
            key=np.array([seed, 0], np.uint64),
            counter=np.array([0, 0, start + row, 0], np.uint64),
        )
        words[row] = generator.random_raw(2 * pairs)
    # 53 bits give a uniform variate in (0, 1]: never 0, so that its logarithm is finite.
    uniform = ((words >> np.uint64(11)) + np.uint64(1)).astype(np.float64) * _SCALE
    radius = np.sqrt(-2.0 * np.log(uniform[:, :pairs]))
    angle = 2.0 * np.pi * uniform[:, pairs:]
    normal = np.concatenate([radius * np.cos(angle), radius * np.sin(angle)], axis=1)
    return normal[:, :dimension].astype(np.float32)
