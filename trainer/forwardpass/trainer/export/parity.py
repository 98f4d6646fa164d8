"""Whether ONNX Runtime answers as torch does, and rows together as each alone."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from forwardpass.artefact import Golden, max_absolute_error, relative_difference, within
from forwardpass.trainer.errors import ParityError, TrainerError
from forwardpass.v1 import model_card_pb2
from forwardpass.wire import Array

if TYPE_CHECKING:
    import onnxruntime

# What to do where all rows together are wrong.
_DIFFERS = (
    "Allow more where that is the rounding of a deep network; else the model does something else "
    "once it is exported"
)
# What to do where all rows together are right, and fewer are not.
_MIXES = (
    "All rows together agree, so what a row is answered depends on the rows beside it: compute "
    "nothing over axis 0, such as a mean or batch normalisation in training mode"
)


def answer(module: nn.Module, inputs: Mapping[str, Array], outputs: Sequence[str]) -> Golden:
    """Returns the inputs, which are in forward's order, with torch's own outputs for them.

    Raises:
        TrainerError: The module returns something else than a tensor for each output.
    """
    with torch.inference_mode():
        answers = module(*map(torch.from_numpy, inputs.values()))
    if isinstance(answers, torch.Tensor):
        answers = (answers,)
    are_tensors = isinstance(answers, tuple | list) and all(map(torch.is_tensor, answers))
    if not are_tensors or len(answers) != len(outputs):
        given = f"{len(answers)} tensors" if are_tensors else f"a {type(answers).__name__}"
        raise TrainerError(
            f"forward returns {given}; to be exported it has to return a tensor for each output, "
            f"in this order: {', '.join(outputs)}"
        )
    arrays = [tensor.numpy() for tensor in answers]
    return Golden(inputs, dict(zip(outputs, arrays, strict=True)))


def open_session(model: bytes, *, optimize: bool = True) -> "onnxruntime.InferenceSession":
    """Returns ONNX Runtime's session of a model on one thread of the CPU.

    Args:
        model: The ONNX file.
        optimize: Whether operators may be fused; else each runs as the file states it.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    if not optimize:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def measure_parity(
    model: bytes,
    golden: Golden,
    tolerance: model_card_pb2.Tolerance,
    *,
    source: str = "torch",
    batched: bool = True,
) -> float:
    """Returns the greatest absolute difference of any output from the golden one.

    The rows are asked for all together, one at a time, and all but the last: batches of three
    sizes, of which the graph was traced with none (with 4 golden rows or more).

    Args:
        model: The ONNX file.
        golden: What it must answer.
        tolerance: How far off it may be.
        source: Whose the golden outputs are.
        batched: Whether axis 0 counts rows; else all is one run.

    Raises:
        ParityError: A difference is greater than the tolerance.
    """
    session = open_session(model)
    worst = 0.0
    batches: list[Any] = [...]
    if batched:
        batches += [slice(row, row + 1) for row in range(golden.rows)]
        batches.append(slice(0, golden.rows - 1))
    for batch in batches:
        feed = {name: array[batch] for name, array in golden.inputs.items()}
        try:
            answers = session.run(list(golden.outputs), feed)
        except Exception as error:
            rows = len(next(iter(feed.values()))) if batched else golden.rows
            said = str(error).strip().partition("\n")[0]
            raise ParityError(
                f"ONNX Runtime fails on a batch of {rows}: {said}. Nothing in the model may be "
                "made for one number of rows, such as a reshape; nothing was published"
            ) from error
        for (name, expected), got in zip(golden.outputs.items(), answers, strict=True):
            if not within(got, expected[batch], tolerance):
                first = 0 if batch is ... else batch.start
                where = _where(got, expected[batch], first) if batched else ""
                raise ParityError(
                    f"output {name!r}: {_difference(got, expected[batch], source)}{where}, more "
                    f"than the tolerance (relative {tolerance.relative:g}, absolute "
                    f"{tolerance.absolute:g}); nothing was published. "
                    + (_DIFFERS if batch is ... else _MIXES)
                )
            worst = max(worst, max_absolute_error(got, expected[batch]))
    return worst


def _difference(got: Array, expected: Array, source: str) -> str:
    """Returns how far off an output is."""
    if got.shape != expected.shape:
        return f"ONNX Runtime gives {list(got.shape)}, {source} {list(expected.shape)}"
    if expected.dtype.kind in "OUS":
        return f"ONNX Runtime's texts are not those of {source}"
    return f"ONNX Runtime is {max_absolute_error(got, expected):.3g} away from {source}"


def _where(got: Array, expected: Array, first: int) -> str:
    """Returns the row that is furthest off, and how many were together.

    Args:
        got: Rows that shared a run.
        expected: What they should be.
        first: Which row is the first of them.
    """
    pairs = zip(np.atleast_1d(got), np.atleast_1d(expected), strict=False)
    errors = [max_absolute_error(*map(np.asarray, pair)) for pair in pairs]
    return f" at row {first + int(np.argmax(errors))} in a batch of {len(expected)}"


def measure_row_independence(
    model: bytes, inputs: Mapping[str, Array]
) -> model_card_pb2.RowIndependence:
    """Returns how far rows that share a run are from the same rows alone.

    The difference is rounded up to a power of ten: its digits are an accident of the processor.

    Args:
        model: The ONNX file; axis 0 of every input and output counts rows.
        inputs: An array for each input.
    """
    session = open_session(model)
    names = [output.name for output in session.get_outputs()]
    together = session.run(names, dict(inputs))
    rows = len(together[0])
    worst = 0.0
    for row in range(rows):
        own = slice(row, row + 1)
        alone = session.run(names, {name: array[own] for name, array in inputs.items()})
        pairs = zip(together, alone, strict=True)
        worst = max(worst, *(relative_difference(whole[own], single) for whole, single in pairs))
    bound = 10.0 ** math.ceil(math.log10(worst)) if 0 < worst < math.inf else worst
    return model_card_pb2.RowIndependence(rows=rows, max_relative_difference=bound)
