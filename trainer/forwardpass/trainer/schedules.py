"""Learning-rate schedules: from the fraction of all steps done to a factor of the rate.

Pure functions, so that a resumed run needs no scheduler state.
"""

import math


def one_cycle(done: float, *, warm: float = 0.2, floor: float = 0.01) -> float:
    """Rises linearly to 1 while `done` < `warm`, then falls along a cosine to `floor`.

    After Smith and Topin, "Super-convergence", 2017.

    Args:
        done: Fraction of all steps done, in [0, 1).
        warm: Fraction of the steps in which to rise.
        floor: The last factor, and the first.
    """
    if done < warm:
        return floor + (1 - floor) * done / warm
    falling = (done - warm) / (1 - warm)
    return floor + (1 - floor) * (1 + math.cos(math.pi * falling)) / 2


def two_drops(done: float) -> float:
    """Stays at 1 until half of the steps are done, then at 0.1, and at 0.01 in the last quarter.

    He, Zhang, Ren and Sun, "Deep residual learning for image recognition", 2015, section 4.2: after
    32,000 and 48,000 steps of 64,000.

    Args:
        done: Fraction of all steps done, in [0, 1).
    """
    if done < 1 / 2:
        return 1.0
    return 0.1 if done < 3 / 4 else 0.01
