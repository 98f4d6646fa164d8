"""The last step of every recipe: export, compare, describe, publish."""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from platform import python_version
from typing import TypeAlias

import onnx
from torch import nn

from forwardpass.artefact import CARD_KEY, card_to_json
from forwardpass.trainer.export.graph import export_graph
from forwardpass.trainer.export.parity import answer, measure_parity
from forwardpass.trainer.export.publish import publish
from forwardpass.trainer.settings import Settings
from forwardpass.trainer.workspace import Workspace
from forwardpass.v1 import model_card_pb2
from forwardpass.wire import Array, element_type

# Tensors by name, in forward's order. (protobuf's stubs type a role in quotes only.)
Roles: TypeAlias = "Mapping[str, model_card_pb2.TensorRole.ValueType]"


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """All that a version is made of.

    Attributes:
        recipe: Its name, which is the model's too.
        description: One sentence on what the model does.
        reference: The paper or book that the architecture is from.
        settings: Of the run.
        module: The trained module with its preprocessing; forward takes the inputs by name.
        inputs: What each input means, in forward's order.
        outputs: What each output means, in forward's order.
        golden_inputs: At least two real examples of each input.
        metrics: Measured on the test rows, by name, in [0, 1].
        source: What it learned from.
        tolerance: How far ONNX Runtime's answers may be from torch's.
        plots: PNG files by name.
        labels: The name of each class, where there are any.
    """

    recipe: str
    description: str
    reference: str
    settings: Settings
    module: nn.Module
    inputs: Roles
    outputs: Roles
    golden_inputs: Mapping[str, Array]
    metrics: Mapping[str, float]
    source: model_card_pb2.DataSource
    tolerance: model_card_pb2.Tolerance
    plots: Mapping[str, bytes]
    labels: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Published:
    """A version that servers can see.

    Attributes:
        folder: MODELS/<name>/<n>.
        card: As it stands in the ONNX file.
    """

    folder: Path
    card: model_card_pb2.ModelCard


def software() -> dict[str, str]:
    """Returns the versions that a result depends on, by name."""
    packages = ("torch", "onnx", "onnxruntime", "forwardpass")
    return {"python": python_version()} | {name: version(name) for name in packages}


def release(trained: Trained, workspace: Workspace) -> Published:
    """Publishes the next version of the model, if ONNX Runtime answers from it as torch does.

    Raises:
        ParityError: It does not.
        PublishError: The version could not be written.
        TrainerError: The module cannot be expressed in ONNX.
    """
    workspace.reporter.note("exporting to ONNX, and comparing ONNX Runtime with torch")
    module = trained.module.to("cpu").eval()
    golden = answer(module, trained.golden_inputs, list(trained.outputs))
    model = export_graph(module, trained.golden_inputs, list(trained.outputs))
    error = measure_parity(_bytes(model), golden, trained.tolerance)
    card = _card(trained, model, error)
    onnx.helper.set_model_props(model, {CARD_KEY: card_to_json(card)})
    folder = publish(workspace.models, trained.recipe, _bytes(model), golden, trained.plots)
    return Published(folder, card)


def _bytes(model: onnx.ModelProto) -> bytes:
    serialized: bytes = model.SerializeToString(deterministic=True)
    return serialized


def _card(trained: Trained, model: onnx.ModelProto, error: float) -> model_card_pb2.ModelCard:
    inputs = [_spec(value, trained.inputs) for value in model.graph.input]
    card = model_card_pb2.ModelCard(
        description=trained.description,
        recipe=trained.recipe,
        settings=trained.settings.as_text(),
        signature=model_card_pb2.Signature(
            inputs=inputs,
            outputs=[_spec(value, trained.outputs) for value in model.graph.output],
            batched=True,
        ),
        labels=trained.labels,
        metrics=trained.metrics,
        parameters=sum(parameter.numel() for parameter in trained.module.parameters()),
        data=trained.source,
        seed=trained.settings.seed,
        tolerance=trained.tolerance,
        parity_error=error,
        versions=software(),
        reference=trained.reference,
    )
    for spec in inputs:
        if spec.role == model_card_pb2.TENSOR_ROLE_IMAGE:
            _, height, width, channels = spec.shape
            card.image.CopyFrom(
                model_card_pb2.ImageInput(
                    input=spec.name, height=height, width=width, channels=channels
                )
            )
    return card


def _spec(value: onnx.ValueInfoProto, roles: Roles) -> model_card_pb2.TensorSpec:
    """Returns the card's description of a graph input or output."""
    tensor = value.type.tensor_type
    dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)
    shape = [dim.dim_value if dim.HasField("dim_value") else -1 for dim in tensor.shape.dim]
    return model_card_pb2.TensorSpec(
        name=value.name,
        data_type=element_type(dtype).data_type,
        shape=shape,
        role=roles[value.name],
    )
