"""The state of a step model along one stream."""

from collections.abc import Mapping, MutableMapping

import numpy as np

from forwardpass.server.onnx.signature import Signature
from forwardpass.wire import Array


class ModelState:
    """Keeps what each state output gave, and gives it to its input with the next request.

    A model without states is not touched by it.
    """

    def __init__(self) -> None:
        self._arrays: dict[str, Array] = {}

    def forget(self) -> None:
        """Starts a sequence anew: every state is zero."""
        self._arrays.clear()

    def recall(self, signature: Signature, inputs: MutableMapping[str, Array]) -> None:
        """Adds the states that a request does not give itself to its inputs."""
        states = {before for before, _ in signature.states}
        rows = next((len(array) for name, array in inputs.items() if name not in states), 1)
        for name in states - inputs.keys():
            kept = self._arrays.get(name)
            if kept is None:
                spec = signature.inputs[name]
                first = rows if signature.batched else 1
                shape = [first if extent == -1 else extent for extent in spec.shape]
                kept = np.zeros(shape, spec.type.dtype)
            inputs[name] = kept

    def add_outputs(self, signature: Signature, outputs: tuple[str, ...]) -> tuple[str, ...]:
        """Returns the outputs to ask the model for: those wanted, and the states."""
        return tuple(dict.fromkeys((*outputs, *(after for _, after in signature.states))))

    def repeated(self, rows: int) -> "ModelState":
        """Returns the state of its one row, repeated for `rows` rows."""
        memory = ModelState()
        for name, array in self._arrays.items():
            memory._arrays[name] = np.repeat(array, rows, axis=0)
        return memory

    def keep(self, signature: Signature, outputs: Mapping[str, Array]) -> None:
        """Keeps the states that an answer gave."""
        for before, after in signature.states:
            self._arrays[before] = outputs[after]
