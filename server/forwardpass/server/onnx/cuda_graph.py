"""Runs at shapes known beforehand, in buffers that never move: what a CUDA graph is captured from.

Binding alone saves nothing here, as requests arrive in host memory and answers leave from it: every
run copies in and out either way. A captured graph reads and writes the addresses that it was
captured with, and so takes buffers that are kept.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from forwardpass.wire import Array

# The names, types and shapes of a run's inputs.
Shapes = frozenset[tuple[str, np.dtype[Any], tuple[int, ...]]]


def shapes_of(inputs: Mapping[str, Array]) -> Shapes:
    """Returns what two runs must have in common to share buffers."""
    return frozenset((name, array.dtype, array.shape) for name, array in inputs.items())


class BoundRun:
    """The buffers of one set of shapes, on the device. Runs must not overlap.

    Args:
        session: ONNX Runtime's session.
        inputs: Its inputs in ONNX Runtime's form, on the device; each is kept and overwritten.
        device: The type and the number of the device, as ONNX Runtime names it: ("cuda", 0).
        options: ONNX Runtime's options of the run that finds the outputs' shapes.
        graph: Which captured graph replays it, from 1.
    """

    def __init__(
        self,
        session: Any,
        inputs: Mapping[str, Any],
        device: tuple[str, int],
        options: Any,
        graph: int,
    ) -> None:
        self.graph = graph
        self._inputs = dict(inputs)
        self._binding = session.io_binding()
        names = [node.name for node in session.get_outputs()]
        for name, value in self._inputs.items():
            self._binding.bind_ortvalue_input(name, value)
        for name in names:
            self._binding.bind_output(name, *device)
        session.run_with_iobinding(self._binding, options)
        # What ONNX Runtime has allocated for this run takes the outputs of all that follow.
        self._outputs = dict(zip(names, self._binding.get_outputs(), strict=True))
        for name, value in self._outputs.items():
            self._binding.bind_ortvalue_output(name, value)

    def __call__(
        self, run: Callable[[Any], None], outputs: Sequence[str], inputs: Mapping[str, Array]
    ) -> list[Array]:
        """Returns the outputs named, in order.

        Args:
            run: Runs ONNX Runtime's session with the binding that it is given.
            outputs: Which; the others are computed too.
            inputs: Of the shapes that this is for.
        """
        for name, value in self._inputs.items():
            value.update_inplace(inputs[name])
        run(self._binding)
        # On the CPU `numpy` shows the buffer itself, which the next run overwrites.
        return [np.array(self._outputs[name].numpy()) for name in outputs]
