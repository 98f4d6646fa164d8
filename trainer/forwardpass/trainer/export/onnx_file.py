"""An ONNX file that somebody else has made."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import onnx
from google.protobuf.message import DecodeError, EncodeError

from forwardpass.artefact import Golden, GraphError, read_graph
from forwardpass.trainer.errors import PublishError
from forwardpass.trainer.export.draft import serialize
from forwardpass.trainer.export.parity import open_session
from forwardpass.trainer.export.preprocess import Preprocess
from forwardpass.trainer.export.sample import golden_rows, has_rows
from forwardpass.trainer.export.surgery import rename_input
from forwardpass.trainer.export.table import first_line, shape_text
from forwardpass.wire import Array
from forwardpass.wire.dtypes import ONNX_TYPES, STRING

if TYPE_CHECKING:
    import onnxruntime

# The oldest set of operators that ONNX Runtime promises to run.
_OLDEST = 7


def read_onnx(model: Path | onnx.ModelProto) -> onnx.ModelProto:
    """Returns a copy of the graph that holds all of its weights.

    Raises:
        PublishError: There is no such file, it is no ONNX model or too large for one file, weights
            beside it are missing, or an operator is not ONNX Runtime's own.
    """
    try:
        loaded = model if isinstance(model, onnx.ModelProto) else onnx.load(model)
        copied = onnx.ModelProto()
        copied.CopyFrom(loaded)
        outside = read_graph(serialize(copied)).external
    except (OSError, DecodeError, GraphError, onnx.checker.ValidationError) as error:
        place = "the model" if isinstance(model, onnx.ModelProto) else str(model)
        raise PublishError(f"{place} cannot be read: {error}") from error
    except (ValueError, EncodeError):
        raise PublishError(
            "the model takes more than 2 GiB, which is the most that one ONNX file can hold"
        ) from None
    if outside:
        raise PublishError(
            f"weights of the model lie in {outside[0].location}; give the path of the file, or "
            "load it with onnx.load, which reads them too"
        )
    opset = next((known.version for known in copied.opset_import if not known.domain), _OLDEST)
    if opset < _OLDEST:
        raise PublishError(
            f"the model is of opset {opset}, and ONNX Runtime runs {_OLDEST} and newer ones; "
            f"onnx.version_converter.convert_version(model, {_OLDEST}) may bring it there"
        )
    return copied


def export_onnx(
    model: onnx.ModelProto,
    sample: Mapping[str, Array],
    preprocess: Preprocess | None,
    outputs: Sequence[str] | None,
) -> tuple[onnx.ModelProto, Golden, bool]:
    """Returns the graph, its own answers to the sample, and whether axis 0 counts rows.

    The answers are those without ONNX Runtime's optimiser: each operator runs as the file has it.

    Args:
        model: As `read_onnx` gives it; it is changed.
        sample: What it takes, under its names.
        preprocess: What is put before it; None for nothing.
        outputs: Those to publish; None for all.

    Raises:
        PublishError: ONNX Runtime does not run it, or not with that sample.
    """
    _keep_outputs(model.graph, outputs)
    if preprocess is not None:
        _name_inputs(model.graph, list(preprocess.apply(sample)))
        model = preprocess.join(model, sample)
    names = [value.name for value in model.graph.output]
    session = _open(model)
    _check_sample(session, sample)
    batched = all(
        node.shape and not isinstance(node.shape[0], int)
        for node in (*session.get_inputs(), *session.get_outputs())
    )
    inputs = golden_rows(sample) if batched else dict(sample)
    try:
        answers = session.run(names, inputs)
    except Exception as error:
        raise PublishError(f"the model does not take the sample: {first_line(error)}") from error
    golden = Golden(inputs, dict(zip(names, answers, strict=True)))
    # An axis that is open may count something else, such as what was detected.
    batched = batched and all(has_rows(array, golden.rows) for array in answers)
    return model, golden, batched


def _name_inputs(graph: onnx.GraphProto, names: Sequence[str]) -> None:
    """Gives the inputs the names of what is made for them, in order, unless they have them."""
    # Older files list the weights among the inputs.
    weights = {each.name for each in graph.initializer}
    taken = [value.name for value in graph.input if value.name not in weights]
    if len(taken) != len(names):
        raise PublishError(
            f"the model takes {', '.join(taken)}; preprocess makes {', '.join(names)} of the sample"
        )
    if set(taken) != set(names):
        for old, new in zip(taken, names, strict=True):
            rename_input(graph, old, new)


def _keep_outputs(graph: onnx.GraphProto, outputs: Sequence[str] | None) -> None:
    if outputs is None:
        return
    found = {value.name: value for value in graph.output}
    if missing := [name for name in outputs if name not in found]:
        raise PublishError(
            f"the model gives {', '.join(found)}; there is no output {', '.join(missing)}"
        )
    kept = [found[name] for name in outputs]
    del graph.output[:]
    graph.output.extend(kept)


def _open(model: onnx.ModelProto) -> "onnxruntime.InferenceSession":
    try:
        session = open_session(serialize(model), optimize=False)
    except Exception as error:
        raise PublishError(f"ONNX Runtime does not load the model: {first_line(error)}") from error
    for node in (*session.get_inputs(), *session.get_outputs()):
        if node.type not in ONNX_TYPES:
            raise PublishError(
                f"{node.name!r} is a {node.type}, which cannot be sent; export the model with "
                "plain tensors (for scikit-learn: zipmap=False)"
            )
    return session


def _check_sample(session: "onnxruntime.InferenceSession", sample: Mapping[str, Array]) -> None:
    """Compares the sample with what the model takes."""
    wanted = {node.name: node for node in session.get_inputs()}
    if wanted.keys() != sample.keys():
        raise PublishError(
            f"the model takes {', '.join(wanted)}; the sample has {', '.join(sample)}"
        )
    for name, array in sample.items():
        node = wanted[name]
        element, extents = ONNX_TYPES[node.type], node.shape
        kind = STRING.dtype if array.dtype.kind == "O" else array.dtype
        fits = len(extents) == array.ndim and all(
            not isinstance(extent, int) or extent == given
            for extent, given in zip(extents, array.shape, strict=False)
        )
        if kind != element.dtype or not fits:
            shape = ", ".join(str(each or "any") for each in extents)
            given = f"{shape_text(array)} with n = {len(array)}" if array.ndim else "one number"
            raise PublishError(
                f"input {name!r} is {given} in the sample, but the model takes {element.name} "
                f"({shape}). Where a number stands first, only so many rows go in at once: give as "
                "many, or export the model with a dynamic first axis"
            )
