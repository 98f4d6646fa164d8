"""Recurrent layers as ONNX has them: one operator for any number of steps."""

from collections.abc import Callable, Collection, Sequence
from typing import Any

import onnx
import torch
from onnxscript import opset18 as op


def _rnn_tanh(  # noqa: PLR0917  # the arguments of torch's operator
    inputs: Any,
    state: Any,
    weights: Sequence[Any],
    has_biases: bool,
    layers: int,
    dropout: float,
    train: bool,
    bidirectional: bool,
    batch_first: bool,
) -> tuple[Any, Any]:
    """Returns ONNX's RNN of an `nn.RNN` of one layer, batch first, with biases.

    torch's own translation writes the steps out one by one, as many as the example had.
    """
    assert (has_biases, layers, bidirectional, batch_first) == (True, 1, False, True)
    assert not (dropout and train)
    from_input, from_state, bias, state_bias = weights
    hidden, after = op.RNN(
        op.Transpose(inputs, perm=[1, 0, 2]),  # (t, n, inputs)
        op.Unsqueeze(from_input, [0]),
        op.Unsqueeze(from_state, [0]),
        op.Unsqueeze(op.Concat(bias, state_bias, axis=0), [0]),
        None,
        state,
        hidden_size=from_state.shape[0],
    )
    return op.Transpose(op.Squeeze(hidden, [1]), perm=[1, 0, 2]), after


# By torch's operator, what the exporter is to make of it.
TRANSLATIONS: dict[Callable[..., Any], Callable[..., Any]] = {
    torch.ops.aten.rnn_tanh.input: _rnn_tanh
}


def open_steps(model: onnx.ModelProto, sequences: Collection[str]) -> None:
    """Declares that axis 1 of some inputs, and of the outputs as long, has any extent.

    torch cannot trace a recurrent layer with that axis open, but what the layer becomes takes any
    number of steps. Whether all of the graph does is for a parity check of another length to tell.

    Args:
        model: Traced at one length.
        sequences: The inputs, all of one length.
    """
    graph = model.graph
    opened = [value for value in graph.input if value.name in sequences]
    length = opened[0].type.tensor_type.shape.dim[1].dim_value
    for value in (*opened, *graph.output):
        axes = value.type.tensor_type.shape.dim
        if len(axes) > 1 and axes[1].dim_value == length:
            axes[1].dim_param = "t"
    # What was inferred of the shapes within is of the one length.
    del graph.value_info[:]
