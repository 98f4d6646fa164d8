"""The last steps of every version, whoever made its graph: compare, describe, publish."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import onnx

from forwardpass.artefact import CARD_KEY, Golden, GraphError, card_to_json, read_graph
from forwardpass.trainer.errors import PublishError
from forwardpass.trainer.export.parity import (
    measure_parity,
    measure_row_independence,
    open_session,
)
from forwardpass.trainer.export.publish import publish
from forwardpass.trainer.export.report import make_report
from forwardpass.v1 import model_card_pb2
from forwardpass.wire import Array, Preparation, to_preparation
from forwardpass.wire.dtypes import ONNX_TYPES

# Tensors by name, in the graph's order. (protobuf's stubs type a role in quotes only.)
Roles: TypeAlias = "Mapping[str, model_card_pb2.TensorRole.ValueType]"


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """A graph that is to be published, and what is said of it.

    Attributes:
        name: The model's.
        graph: Takes the golden inputs, and gives the golden outputs.
        golden: At least two rows of each input, with the answers of whoever made the graph.
        card: What is known without the graph; `publish_draft` adds what it sees and measures.
        inputs: What each input means.
        outputs: What each output means.
        plots: PNG files by name.
        also: More that the graph must answer, such as sequences of another length.
        preparation: What is done to a picture until it has the size of the image input; None for
            what is usual.
    """

    name: str
    graph: onnx.ModelProto
    golden: Golden
    card: model_card_pb2.ModelCard
    inputs: Roles
    outputs: Roles
    plots: Mapping[str, bytes] = field(default_factory=dict)
    also: tuple[Golden, ...] = ()
    preparation: Preparation | None = None


def publish_draft(draft: Draft, models: Path) -> Path:
    """Publishes the next version of the model, and returns its folder.

    Raises:
        ParityError: ONNX Runtime answers otherwise than the golden outputs, or rows change one
            another.
        PublishError: The version could not be written, or no server would load it.
    """
    card, data = draft.card, serialize(draft.graph)
    batched, source = card.signature.batched, card.golden_source or "torch"
    card.parity_error = max(
        measure_parity(data, golden, card.tolerance, source=source, batched=batched)
        for golden in (draft.golden, *draft.also)
    )
    _describe(draft, data)
    if batched:
        card.row_independence.CopyFrom(measure_row_independence(data, draft.golden.inputs))
    model = with_card(draft.graph, card)
    report = make_report(draft.name, card, model, draft.golden, draft.plots)
    return publish(models, draft.name, model, draft.golden, draft.plots, report=report)


def with_card(model: onnx.ModelProto, card: model_card_pb2.ModelCard) -> bytes:
    """Returns the file to publish, which must be one that servers load.

    Raises:
        PublishError: It is none.
    """
    properties = {each.key: each.value for each in model.metadata_props}
    onnx.helper.set_model_props(model, properties | {CARD_KEY: card_to_json(card)})
    data = serialize(model)
    try:
        read_graph(data)
    except GraphError as error:
        raise PublishError(f"no server would load the model: {error}") from error
    return data


def serialize(model: onnx.ModelProto) -> bytes:
    """Returns the bytes of a graph; equal graphs have equal ones."""
    serialized: bytes = model.SerializeToString(deterministic=True)
    return serialized


def _describe(draft: Draft, data: bytes) -> None:
    """Adds to the card what the graph takes and gives, as servers see it."""
    session, signature = open_session(data), draft.card.signature
    signature.inputs.extend(_spec(node, draft.inputs) for node in session.get_inputs())
    signature.outputs.extend(_spec(node, draft.outputs) for node in session.get_outputs())
    for name, role in draft.inputs.items():
        if role == model_card_pb2.TENSOR_ROLE_IMAGE:
            image = _image(name, draft.golden.inputs[name])
            if draft.preparation is not None:
                image.preparation.CopyFrom(to_preparation(draft.preparation))
            draft.card.image.CopyFrom(image)


def _image(name: str, examples: Array) -> model_card_pb2.ImageInput:
    _, height, width, channels = examples.shape
    return model_card_pb2.ImageInput(input=name, height=height, width=width, channels=channels)


def _spec(node: Any, roles: Roles) -> model_card_pb2.TensorSpec:
    """Returns the card's description of what ONNX Runtime says of an input or output."""
    return model_card_pb2.TensorSpec(
        name=node.name,
        data_type=ONNX_TYPES[node.type].data_type,
        shape=[extent if isinstance(extent, int) else -1 for extent in node.shape],
        role=roles[node.name],
    )
