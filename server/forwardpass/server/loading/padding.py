"""Fills the rows of a run up to a size for which there are buffers."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from forwardpass.server.scheduling.batch import Run
from forwardpass.wire import Array


def padded(run: Run, sizes: Sequence[int]) -> Run:
    """Returns a run of the same answers, which fills its rows up to the next of the sizes.

    The last row is repeated: what it holds is in the range of every index. More rows than the
    greatest size stay as many.

    Args:
        run: Runs a model whose rows, on axis 0 of every input and output, are independent.
        sizes: Numbers of rows, in rising order.
    """

    def run_padded(
        outputs: Sequence[str],
        inputs: Mapping[str, Array],
        on_begin: Callable[[Callable[[], None]], None] | None,
    ) -> list[Array]:
        rows = len(next(iter(inputs.values())))
        more = next((size for size in sizes if size >= rows), rows) - rows
        if not more:
            return run(outputs, inputs, on_begin)
        filled = {
            name: np.concatenate([array, np.repeat(array[-1:], more, axis=0)])
            for name, array in inputs.items()
        }
        return [value[:rows] for value in run(outputs, filled, on_begin)]

    return run_padded
