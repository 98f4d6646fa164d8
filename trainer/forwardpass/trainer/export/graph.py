"""A torch module as an ONNX graph that says nothing about the machine it was made on."""

import inspect
import io
import logging
import re
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import nn

from forwardpass.trainer.errors import TrainerError
from forwardpass.trainer.export.recurrent import TRANSLATIONS, open_steps
from forwardpass.wire import Array

_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
# A line of a traceback: file, line, and what stands there.
_PLACE = re.compile(r'File "([^"]+)", line ([0-9]+), in \w+\n\s*(.+)')


def export_graph(
    module: nn.Module,
    inputs: Mapping[str, Array],
    outputs: Sequence[str],
    sequences: Collection[str] = (),
) -> onnx.ModelProto:
    """Returns the graph, with axis 0 of every input and output of any extent; checked by onnx.

    Equal weights give equal bytes: what the exporter notes of source files, lines and modules is
    taken out.

    Args:
        module: On the CPU, in evaluation mode.
        inputs: Two examples or more of each input, in forward's order; axis 0 counts rows.
        outputs: Names, in the order in which forward returns them.
        sequences: The inputs of which axis 1 counts steps, of any number, the same in each.

    Raises:
        TrainerError: The module cannot be expressed in ONNX.
    """
    rows = torch.export.Dim("n")
    # Two rows: the exporter takes an axis of extent 1 for a constant.
    examples = [torch.from_numpy(array[:2]) for array in inputs.values()]
    # As forward's parameters have them: one that takes any number has a tuple of them.
    extents = inspect.signature(module.forward).bind(*({0: rows} for _ in examples)).arguments
    try:
        with _quiet():
            program = torch.onnx.export(
                module,
                args=tuple(examples),
                input_names=list(inputs),
                output_names=list(outputs),
                dynamic_shapes=tuple(extents.values()),
                custom_translation_table=TRANSLATIONS,
                dynamo=True,
                verbose=False,
            )
    except torch.onnx.errors.OnnxExporterError as error:
        raise TrainerError(_why_not(error)) from error
    if program is None:
        raise TrainerError("the exporter gave no graph")
    model = program.model_proto
    forget_origins(model)
    if sequences:
        open_steps(model, sequences)
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


def _why_not(error: Exception) -> str:
    """Returns what torch found, and where, without its advice on torch's own parts."""
    cause: BaseException = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    found = _COLOUR.sub("", str(cause)).strip().partition("\n")[0]
    place = _PLACE.search(str(cause)) or _PLACE.search(str(error))
    where = f", at line {place[2]} of {Path(place[1]).name}: {place[3].strip()}" if place else ""
    return (
        f"the model cannot be exported to ONNX: {found}{where}. What forward does must not depend "
        "on values, such as by `if`; forwardpass-train --debug shows torch's own words"
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Silences what the exporter says about its own parts: nothing in it is for a user to mend."""
    # Such as that torchvision, which nothing here uses, is absent.
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        # It prints the graphs that it could not make, too.
        with warnings.catch_warnings(), redirect_stderr(io.StringIO()):
            # They are about code of torch's own; whether the graph is right, parity tells.
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
