"""The last step of every recipe, and of quantising: export, compare, describe, publish."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from platform import python_version

import onnx
import torch
from torch import nn

from forwardpass.artefact import (
    CARD_KEY,
    MODEL_FILE,
    CardError,
    Golden,
    ManifestError,
    card_from_json,
    file_digest,
    verify_manifest,
)
from forwardpass.trainer.errors import (
    PublishError,
    QuantizeError,
    UnknownNameError,
    WithheldError,
)
from forwardpass.trainer.export.draft import Draft, Roles, publish_draft, serialize, with_card
from forwardpass.trainer.export.front import COUNTS, Front
from forwardpass.trainer.export.graph import export_graph
from forwardpass.trainer.export.int8 import Int8
from forwardpass.trainer.export.parity import answer, measure_row_independence
from forwardpass.trainer.export.publish import newest_version, publish
from forwardpass.trainer.export.report import make_report
from forwardpass.trainer.training.settings import Settings
from forwardpass.trainer.training.workspace import Workspace
from forwardpass.v1 import model_card_pb2
from forwardpass.wire import Array


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """All that a version is made of.

    Attributes:
        recipe: Its name, which is the model's too; empty where none trained it.
        description: One sentence on what the model does.
        reference: The paper or book that the architecture is from.
        settings: Of the run.
        module: The trained module with its preprocessing; forward takes the inputs by name, or what
            `front` makes of them.
        inputs: What each input means, in forward's order.
        outputs: What each output means, in forward's order.
        golden_inputs: At least two real examples of each input.
        metrics: Measured on the test rows, by name; finite.
        source: What it learned from; None for nothing.
        tolerance: How far ONNX Runtime's answers may be from torch's.
        plots: PNG files by name.
        labels: The name of each class, where there are any.
        front: What makes the module's input, COUNTS, of the one input, texts; None where the module
            takes the inputs itself.
        states: Of a step, the output that each state input takes its next value from.
        sequences: The inputs of which axis 1 counts steps, of any number.
        name: The model's, where no recipe gives it one.
        judge: Of a generator, the model that its metrics are the opinion of; None for any other.
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
    source: model_card_pb2.DataSource | None
    tolerance: model_card_pb2.Tolerance
    plots: Mapping[str, bytes]
    labels: tuple[str, ...] = ()
    front: Front | None = None
    states: Mapping[str, str] = field(default_factory=dict)
    sequences: tuple[str, ...] = ()
    name: str = ""
    judge: model_card_pb2.PublishedModel | None = None


@dataclass(frozen=True, slots=True)
class Published:
    """A version that servers can see.

    Attributes:
        folder: MODELS/<name>/<n>.
        card: As it stands in the ONNX file.
    """

    folder: Path
    card: model_card_pb2.ModelCard


def software(*frameworks: str) -> dict[str, str]:
    """Returns the versions that a result depends on, by name.

    Args:
        frameworks: The distributions that made the model; torch where none is named.
    """
    packages = (*(frameworks or ("torch",)), "onnx", "onnxruntime", "forwardpass")
    return {"python": python_version()} | {name: version(name) for name in packages}


def release(trained: Trained, workspace: Workspace) -> Published:
    """Publishes the next version of the model, if ONNX Runtime answers from it as torch does.

    Raises:
        WithheldError: The workspace is one that nothing is published from.
        ParityError: It does not.
        PublishError: It has another recipe's name, the version could not be written, or no server
            would load it.
        TrainerError: The module cannot be expressed in ONNX.
    """
    if workspace.recipe and trained.recipe != workspace.recipe:
        raise PublishError(
            f"the recipe {workspace.recipe} would publish in the name of {trained.recipe}; write "
            "recipe=workspace.recipe in its Trained(...), and the same name for its run's folder"
        )
    if not workspace.publishes:
        raise WithheldError(f"{trained.recipe} was trained, and nothing was published")
    workspace.reporter.note("exporting to ONNX, and comparing ONNX Runtime with torch")
    graph, golden = _export(trained)
    name = trained.name or trained.recipe
    if trained.settings.limit and workspace.keeps_limited_apart:
        name += "-limited"
    draft = Draft(
        name=name,
        graph=graph,
        golden=golden,
        card=_card(trained),
        inputs=trained.inputs,
        outputs=trained.outputs,
        plots=trained.plots,
        also=(_shorter(trained),) if trained.sequences else (),
    )
    return Published(publish_draft(draft, workspace.models), draft.card)


def _export(trained: Trained) -> tuple[onnx.ModelProto, Golden]:
    """Returns the graph, and torch's answers to the golden inputs."""
    module, outputs = trained.module.to("cpu").eval(), list(trained.outputs)
    if trained.front is None:
        golden = answer(module, trained.golden_inputs, outputs)
        return export_graph(module, trained.golden_inputs, outputs, trained.sequences), golden
    ((name, texts),) = trained.golden_inputs.items()
    counts = {COUNTS: trained.front.counts(texts)}
    golden = Golden(trained.golden_inputs, answer(module, counts, outputs).outputs)
    return trained.front.join(export_graph(module, counts, outputs), name), golden


def _shorter(trained: Trained) -> Golden:
    """Returns torch's answers to half of each sequence: of a length that was not traced."""
    halves = {
        name: array[:, : array.shape[1] // 2] if name in trained.sequences else array
        for name, array in trained.golden_inputs.items()
    }
    return answer(trained.module, halves, list(trained.outputs))


def find_published(models: Path, name: str, version: int | None) -> Published:
    """Returns a version of a model that was published with a card.

    Args:
        models: The repository.
        name: The model's.
        version: Which; None for the newest whole one.

    Raises:
        UnknownNameError: There is no such model, or version of it.
        QuantizeError: The version is not whole, or has no card.
    """
    found = {path.parent.name for path in models.glob("*/*") if path.name.isdecimal()}
    if not found:
        raise QuantizeError(
            f"there is no model in {models}; train one, such as by: forwardpass-train run "
            f"mnist-cnn --models {models}"
        )
    if name not in found:
        raise UnknownNameError("model", name, found)
    if version is None:
        folder = newest_version(models, name)
        if folder is None:
            raise QuantizeError(f"no version in {models / name} is whole; train one anew")
    else:
        folder = models / name / str(version)
        if not folder.exists():
            versions = [path.name for path in folder.parent.iterdir() if path.name.isdecimal()]
            raise UnknownNameError(f"version of {name}", str(version), versions)
    return Published(folder, _read_card(folder))


def _read_card(folder: Path) -> model_card_pb2.ModelCard:
    try:
        verify_manifest(folder)
        properties = {p.key: p.value for p in onnx.load(folder / MODEL_FILE).metadata_props}
        return card_from_json(properties[CARD_KEY])
    except (ManifestError, FileNotFoundError, CardError) as error:
        raise QuantizeError(f"{folder} cannot be used: {error}") from None
    except KeyError:
        raise QuantizeError(
            f"{folder} has no card, so nothing tells what data to calibrate by or which accuracy "
            "to keep; models that recipes published have one"
        ) from None


def release_int8(
    parent: Published,
    int8: Int8,
    metrics: Mapping[str, float],
    quantization: model_card_pb2.Quantization,
    workspace: Workspace,
) -> Published:
    """Publishes an int8 version beside its parent, whose card it has but for what it changes.

    Args:
        parent: In MODELS/<name>/<n>.
        int8: Made from it.
        metrics: Of the int8 version, as in `Trained`.
        quantization: What the card says of the parent, but for its version and digest.
        workspace: Whose models the parent is among.

    Raises:
        PublishError: The version could not be written.
    """
    card = model_card_pb2.ModelCard()
    card.CopyFrom(parent.card)
    for name in ("schema_version", "metrics", "versions", "golden_source"):
        card.ClearField(name)
    card.metrics.update(metrics)
    card.versions.update(software())
    card.tolerance.CopyFrom(int8.tolerance)
    card.parity_error = int8.drift
    independence = measure_row_independence(serialize(int8.graph), int8.golden.inputs)
    card.row_independence.CopyFrom(independence)
    card.quantization.CopyFrom(quantization)
    card.quantization.parent_version = int(parent.folder.name)
    card.quantization.parent_sha256 = file_digest(parent.folder / MODEL_FILE)
    # ONNX Runtime's quantiser leaves notes of its own.
    del int8.graph.metadata_props[:]
    name = parent.folder.parent.name
    model = with_card(int8.graph, card)
    report = make_report(name, card, model, int8.golden, plots={})
    folder = publish(workspace.models, name, model, int8.golden, {}, report=report)
    return Published(folder, card)


def _card(trained: Trained) -> model_card_pb2.ModelCard:
    """Returns what the run knows of the version, without what is seen of the graph."""
    return model_card_pb2.ModelCard(
        description=trained.description,
        recipe=trained.recipe,
        settings=trained.settings.as_text(),
        signature=model_card_pb2.Signature(
            batched=True,
            states=[
                model_card_pb2.StatePair(input=before, output=after)
                for before, after in trained.states.items()
            ],
        ),
        labels=trained.labels,
        metrics=trained.metrics,
        parameters=sum(parameter.numel() for parameter in trained.module.parameters()),
        data=trained.source,
        seed=trained.settings.seed,
        tolerance=trained.tolerance,
        versions=software(),
        threads=torch.get_num_threads(),
        reference=trained.reference,
        judge=trained.judge,
    )
