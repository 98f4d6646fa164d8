"""Learning-rate schedules: from the fraction of all steps done to a factor of the rate.

Pure functions, so that a resumed run needs no scheduler state.
"""

import math
from collections.abc import Callable
from typing import Literal, TypeAlias

Schedule: TypeAlias = Callable[[float], float]
ScheduleName: TypeAlias = Literal["constant", "one-cycle", "cosine", "step"]


def constant(_: float) -> float:
    """Stays at 1."""
    return 1.0


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


def cosine(done: float) -> float:
    """Falls from 1 to 0 along half a cosine.

    After Loshchilov and Hutter, "SGDR: Stochastic gradient descent with warm restarts", 2016,
    without the restarts.

    Args:
        done: Fraction of all steps done, in [0, 1).
    """
    return (1 + math.cos(math.pi * done)) / 2


def step(done: float) -> float:
    """Is a tenth after half of the steps, and a tenth of that after three quarters.

    After He, Zhang, Ren and Sun, "Deep residual learning for image recognition", 2015, section 4.2.

    Args:
        done: Fraction of all steps done, in [0, 1).
    """
    return 0.1 ** ((done >= 0.5) + (done >= 0.75))


SCHEDULES: dict[ScheduleName, Schedule] = {
    "constant": constant,
    "one-cycle": one_cycle,
    "cosine": cosine,
    "step": step,
}
