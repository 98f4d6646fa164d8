"""The last step of every recipe, and of quantising: export, compare, describe, publish."""

from collections.abc import Mapping

import onnx

from forwardpass.artefact import MODEL_FILE, Golden, file_digest
from forwardpass.trainer.export.card import Evaluation, Provenance, Trained, make_card, software
from forwardpass.trainer.export.draft import Draft, publish_draft, serialize, with_card
from forwardpass.trainer.export.graph import export_graph
from forwardpass.trainer.export.int8 import Int8
from forwardpass.trainer.export.parity import answer, measure_row_independence
from forwardpass.trainer.export.publish import publish
from forwardpass.trainer.export.published import Published
from forwardpass.trainer.export.report import make_report
from forwardpass.trainer.training.workspace import Workspace
from forwardpass.v1 import model_card_pb2


def release(
    name: str,
    trained: Trained,
    evaluation: Evaluation,
    provenance: Provenance,
    workspace: Workspace,
) -> Published:
    """Publishes the next version of the model, if ONNX Runtime answers from it as torch does.

    Args:
        name: The model's.
        trained: What is published.
        evaluation: Of it.
        provenance: Where it comes from.
        workspace: Whose models it joins.

    Raises:
        ParityError: It does not.
        PublishError: The version could not be written, or no server would load it.
        TrainerError: The module cannot be expressed in ONNX.
    """
    workspace.reporter.note("exporting to ONNX, and comparing ONNX Runtime with torch")
    graph, golden = _export(trained)
    draft = Draft(
        name=name,
        graph=graph,
        golden=golden,
        card=make_card(trained, evaluation.metrics, provenance),
        inputs=trained.inputs,
        outputs=trained.outputs,
        plots=evaluation.plots,
        also=(_shorter(trained),) if trained.sequences else (),
        preparation=trained.preparation,
    )
    return Published(publish_draft(draft, workspace.models), draft.card)


def _export(trained: Trained) -> tuple[onnx.ModelProto, Golden]:
    """Returns the graph, and torch's answers to the golden inputs."""
    module, outputs = trained.module.to("cpu").eval(), list(trained.outputs)
    if trained.front is None:
        golden = answer(module, trained.golden_inputs, outputs)
        return export_graph(module, trained.golden_inputs, outputs, trained.sequences), golden
    taken = trained.front.apply(trained.golden_inputs)
    golden = Golden(trained.golden_inputs, answer(module, taken, outputs).outputs)
    return trained.front.join(export_graph(module, taken, outputs), trained.golden_inputs), golden


def _shorter(trained: Trained) -> Golden:
    """Returns torch's answers to half of each sequence: of a length that was not traced."""
    halves = {
        name: array[:, : array.shape[1] // 2] if name in trained.sequences else array
        for name, array in trained.golden_inputs.items()
    }
    return answer(trained.module, halves, list(trained.outputs))


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
