"""A torch module as an ONNX graph that says nothing about the machine it was made on."""

import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import onnx
import torch
from torch import nn

from forwardpass.trainer.errors import TrainerError
from forwardpass.wire import Array


def export_graph(
    module: nn.Module, inputs: Mapping[str, Array], outputs: Sequence[str]
) -> onnx.ModelProto:
    """Returns the graph, with axis 0 of every input and output of any extent; checked by onnx.

    Equal weights give equal bytes: what the exporter notes of source files, lines and modules is
    taken out.

    Args:
        module: On the CPU, in evaluation mode; its forward takes the inputs by name.
        inputs: Two examples or more of each input, axis 0 counting rows.
        outputs: Names, in the order in which forward returns them.

    Raises:
        TrainerError: The module cannot be expressed in ONNX.
    """
    rows = torch.export.Dim("n")
    # Two rows: the exporter takes an axis of extent 1 for a constant.
    examples = {name: torch.from_numpy(array[:2]) for name, array in inputs.items()}
    try:
        with _quiet():
            program = torch.onnx.export(
                module,
                kwargs=examples,
                input_names=list(inputs),
                output_names=list(outputs),
                dynamic_shapes={name: {0: rows} for name in inputs},
                dynamo=True,
                verbose=False,
            )
    except torch.onnx.errors.OnnxExporterError as error:
        raise TrainerError(f"the model cannot be exported to ONNX: {error}") from error
    if program is None:
        raise TrainerError("the exporter gave no graph")
    model = program.model_proto
    forget_origins(model)
    onnx.checker.check_model(model, full_check=True)
    return model


def forget_origins(message: Any) -> None:
    """Clears notes (doc strings and metadata) from a protobuf message and all within it."""
    for name in ("metadata_props", "doc_string"):
        if name in message.DESCRIPTOR.fields_by_name:
            message.ClearField(name)
    for field, value in message.ListFields():
        if field.message_type is not None:
            for part in value if field.is_repeated else [value]:
                forget_origins(part)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silences what the exporter says about its own parts: nothing in it is for a user to mend."""
    # It tells that torchvision, which nothing here uses, is absent.
    logger = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            # torch 2.13 copies its own tree specs in a way that it has deprecated.
            warnings.filterwarnings("ignore", r".*LeafSpec", FutureWarning)
            # Several inputs count the same rows, and so share the name of their axis 0.
            warnings.filterwarnings("ignore", r"# The axis name: n will not be used", UserWarning)
            yield
    finally:
        logger.setLevel(level)
