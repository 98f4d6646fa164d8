"""int8 versions: what is in them, what their cards say, and which are refused."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from conftest import StartServer
from tiny_models import Publisher
from torch import Tensor, nn
from training import MakeWorkspace, Publish

from forwardpass.artefact import (
    CARD_KEY,
    Golden,
    card_from_json,
    file_digest,
    load_golden,
    verify_manifest,
    within,
)
from forwardpass.client import Client
from forwardpass.trainer.data import digits
from forwardpass.trainer.data.dataset import Dataset
from forwardpass.trainer.errors import DataError, QuantizeError, TrainerError, UnknownNameError
from forwardpass.trainer.export.card import Evaluation, Provenance, Trained
from forwardpass.trainer.export.parity import open_session
from forwardpass.trainer.export.published import Published
from forwardpass.trainer.export.release import release
from forwardpass.trainer.models.pixels import Classifier, Normalize
from forwardpass.trainer.quantize import draw_rows, quantize
from forwardpass.trainer.recipes.digits_mlp import Settings
from forwardpass.trainer.training.workspace import Workspace
from forwardpass.trainer.untrained import publish_untrained, quantize_untrained
from forwardpass.trainer.zoo import find_architecture
from forwardpass.v1 import model_card_pb2 as pb

# Quick models learned little, and may lose a row or two of the few they are tested on.
MAX_LOSS = 0.05
QUANTIZABLE = ["digits-mlp", "mnist-cnn", "fashion-cnn", "cifar10-resnet", "mnist-resnet"]

Copy = Callable[[str], Workspace]


@pytest.fixture(scope="module")
def copy_of(publish_once: Publish, make_workspace: MakeWorkspace) -> Copy:
    """Gives a repository of its own with a recipe's model, whose versions nobody else counts."""

    def copy(name: str) -> Workspace:
        workspace = make_workspace()
        shutil.copytree(publish_once(name).folder, workspace.models / name / "1")
        return workspace

    return copy


@pytest.fixture(scope="module")
def quantized(copy_of: Copy) -> Publish:
    done: dict[str, Published] = {}

    def quantize_once(name: str) -> Published:
        if name not in done:
            done[name] = quantize(name, None, MAX_LOSS, copy_of(name))
        return done[name]

    return quantize_once


class Spoiled(nn.Module):
    """Tells digits by their nearest mean, beside a hidden unit that nothing reads and that is so
    large that 256 steps up to it leave none for the others.
    """

    def __init__(self, data: Dataset) -> None:
        super().__init__()
        images = torch.from_numpy(data.train.inputs).flatten(1).float() / 255
        targets = torch.from_numpy(data.train.targets)
        means = torch.stack([images[targets == label].mean(dim=0) for label in range(10)])
        hidden, scores = nn.Linear(64, 65, bias=False), nn.Linear(65, 10)
        with torch.no_grad():
            hidden.weight.copy_(torch.cat([torch.eye(64), torch.full((1, 64), 1e4)]))
            scores.weight.copy_(torch.cat([means, torch.zeros(10, 1)], dim=1))
            scores.bias.copy_(-means.square().sum(dim=1) / 2)
        self.layers = nn.Sequential(Normalize(0.0, 1.0), nn.Flatten(), hidden, nn.ReLU(), scores)

    def forward(self, image: Tensor) -> Tensor:
        logits: Tensor = self.layers(image)
        return logits


def publish_spoiled(workspace: Workspace, source: pb.DataSource | None = None) -> Published:
    data = digits.load(workspace.cache, workspace.reporter)
    return release(
        "digits-mlp",
        Trained(
            description="",
            reference="",
            module=Classifier(Spoiled(data)),
            inputs={"image": pb.TENSOR_ROLE_IMAGE},
            outputs={"probabilities": pb.TENSOR_ROLE_PROBABILITIES},
            golden_inputs={"image": data.test.inputs[:8]},
            tolerance=pb.Tolerance(relative=1e-4, absolute=1e-4),
        ),
        Evaluation(),
        Provenance("digits-mlp", Settings(), source or data.source()),
        workspace,
    )


def read(folder: Path) -> onnx.ModelProto:
    return onnx.load(folder / "model.onnx")


def agrees(model: onnx.ModelProto, golden: Golden, card: pb.ModelCard, *, optimize: bool) -> bool:
    session = open_session(model.SerializeToString(), optimize=optimize)
    answers = session.run(list(golden.outputs), dict(golden.inputs))
    pairs = zip(answers, golden.outputs.values(), strict=True)
    return all(within(answer, expected, card.tolerance) for answer, expected in pairs)


@pytest.mark.parametrize("name", QUANTIZABLE)
def test_its_card_states_its_own_metrics_beside_its_parents(
    name: str, quantized: Publish, publish_once: Publish
) -> None:
    published, parent = quantized(name), publish_once(name)
    card, quantization = published.card, published.card.quantization

    assert published.folder.name == "2"
    verify_manifest(published.folder)
    properties = {prop.key: prop.value for prop in read(published.folder).metadata_props}
    assert properties.keys() == {CARD_KEY}
    written = card_from_json(properties[CARD_KEY])
    written.schema_version = 0  # which only the JSON is stamped with
    assert written == card

    assert quantization.parent_version == 1
    assert quantization.parent_sha256 == file_digest(parent.folder / "model.onnx")
    assert quantization.calibration_rows == min(512, parent.card.data.train_rows)
    assert dict(quantization.parent_metrics) == pytest.approx(
        dict(parent.card.metrics), abs=1.1 / parent.card.data.test_rows
    )
    assert card.metrics.keys() == parent.card.metrics.keys()
    for metric, before in quantization.parent_metrics.items():
        assert before - MAX_LOSS <= card.metrics[metric] <= 1
    assert card.signature == parent.card.signature
    assert (card.labels, card.data, card.image) == (
        parent.card.labels,
        parent.card.data,
        parent.card.image,
    )
    assert quantization.differences.keys() == {spec.name for spec in card.signature.outputs}
    for output, difference in quantization.differences.items():
        assert 0 < difference.max_absolute < np.inf
        assert 0.99 < difference.mean_cosine <= 1 + 1e-9
        assert difference.HasField("same_class") == (output != "embedding")


@pytest.mark.parametrize("name", QUANTIZABLE)
def test_it_computes_in_integers(name: str, quantized: Publish, tmp_path: Path) -> None:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.optimized_model_filepath = str(tmp_path / "fused.onnx")
    onnxruntime.InferenceSession(
        str(quantized(name).folder / "model.onnx"), options, providers=["CPUExecutionProvider"]
    )
    fused = [node.op_type for node in onnx.load(tmp_path / "fused.onnx").graph.node]

    assert not {"Conv", "FusedConv", "Gemm", "FusedGemm", "MatMul", "Add"} & set(fused)
    assert {"QGemm", "QLinearMatMul"} & set(fused)
    if name != "digits-mlp":
        assert "QLinearConv" in fused


@pytest.mark.parametrize("name", QUANTIZABLE)
def test_weights_leave_room_for_a_cpu_that_adds_pairs_in_16_bits(
    name: str, quantized: Publish
) -> None:
    tensors = [
        onnx.numpy_helper.to_array(t) for t in read(quantized(name).folder).graph.initializer
    ]
    weights = [array for array in tensors if array.dtype == np.int8 and array.ndim > 1]

    assert weights
    for array in weights:
        # Two products of an activation and a weight: 2 x 255 x 64 < 2**15.
        assert 32 < np.abs(array.astype(int)).max() <= 64


@pytest.mark.parametrize("name", QUANTIZABLE)
def test_other_arithmetic_passes_its_golden_check_and_other_answers_do_not(
    name: str, quantized: Publish
) -> None:
    published = quantized(name)
    model, card = read(published.folder), published.card
    golden = load_golden(published.folder / "golden.npz")

    assert card.tolerance.absolute >= card.parity_error
    assert card.row_independence.rows > 1
    assert agrees(model, golden, card, optimize=True)
    assert agrees(model, golden, card, optimize=False)
    turned = {key: np.roll(array, 1, axis=0) for key, array in golden.outputs.items()}
    assert not agrees(model, Golden(golden.inputs, turned), card, optimize=True)


def test_the_same_parent_gives_the_same_bytes_and_no_trace_of_the_place(
    quantized: Publish, copy_of: Copy
) -> None:
    first = quantized("digits-mlp").folder
    second = quantize("digits-mlp", 1, MAX_LOSS, copy_of("digits-mlp")).folder

    assert second != first
    for file in ("model.onnx", "golden.npz"):
        assert (second / file).read_bytes() == (first / file).read_bytes()
    for trace in (b"site-packages", b".py", b"/tmp", str(Path.home()).encode() + b"/"):
        assert trace not in (first / "model.onnx").read_bytes()


def test_calibration_rows_are_drawn_by_the_seed() -> None:
    rows = np.arange(600).reshape(-1, 1)
    drawn = draw_rows(rows, seed=3)

    assert len(np.unique(drawn)) == 512
    assert np.array_equal(drawn, draw_rows(rows, seed=3))
    assert not np.array_equal(drawn, draw_rows(rows, seed=4))
    assert len(draw_rows(rows[:5], seed=3)) == 5


def test_a_loss_beyond_the_bound_publishes_nothing(workspace: Workspace) -> None:
    parent = publish_spoiled(workspace)

    with pytest.raises(
        QuantizeError,
        match=r"int8 loses 0\.\d+ of accuracy, which falls from 0\.[89]\d+ to 0\.\d+ on the test "
        r"rows, and --max-loss allows 0\.005; nothing was published",
    ):
        quantize("digits-mlp", None, 0.005, workspace)
    assert [path.name for path in parent.folder.parent.glob("[0-9]*")] == ["1"]

    card = quantize("digits-mlp", None, 1.0, workspace).card
    assert card.metrics["accuracy"] < 0.5 < card.quantization.parent_metrics["accuracy"]
    assert card.quantization.differences["probabilities"].same_class < 0.5
    assert card.quantization.max_loss == 1


def test_data_that_the_parent_did_not_learn_from_is_refused(workspace: Workspace) -> None:
    publish_spoiled(workspace, pb.DataSource(name="digits", sha256="0" * 64))

    with pytest.raises(DataError, match="learned from other rows than digits-mlp now loads"):
        quantize("digits-mlp", None, 1.0, workspace)


@pytest.mark.parametrize("name", ["xor", "mnist-gan", "sunspots", "airline"])
def test_a_model_that_is_not_measured_on_test_rows_is_refused(name: str, copy_of: Copy) -> None:
    with pytest.raises(
        QuantizeError, match=f"{name} cannot be quantised.*can be: {', '.join(QUANTIZABLE)}"
    ):
        quantize(name, None, 1.0, copy_of(name))


def test_an_int8_version_is_not_quantised_again(
    quantized: Publish, make_workspace: MakeWorkspace
) -> None:
    workspace = make_workspace(models=quantized("mnist-cnn").folder.parents[1])

    with pytest.raises(QuantizeError, match=r"2 is int8 already, made of version 1; .*--version"):
        quantize("mnist-cnn", None, 1.0, workspace)


def test_what_is_not_there_is_told_with_what_is(copy_of: Copy, workspace: Workspace) -> None:
    with pytest.raises(QuantizeError, match=r"there is no model in .* forwardpass-train run"):
        quantize("digits-mlp", None, 1.0, workspace)

    there = copy_of("digits-mlp")
    with pytest.raises(UnknownNameError, match="no model 'digits-mpl'; did you mean 'digits-mlp'"):
        quantize("digits-mpl", None, 1.0, there)
    with pytest.raises(UnknownNameError, match="no version of digits-mlp '7'; There are: 1"):
        quantize("digits-mlp", 7, 1.0, there)

    folder = there.models / "digits-mlp" / "1"
    (folder / "model.onnx").write_bytes(b"another")
    with pytest.raises(QuantizeError, match=r"cannot be used: .*bytes"):
        quantize("digits-mlp", 1, 1.0, there)
    with pytest.raises(TrainerError, match=r"no version in .* is whole"):
        quantize("digits-mlp", None, 1.0, there)


def test_the_server_serves_both_versions_and_their_labels(
    quantized: Publish, repository: Publisher, start_server: StartServer
) -> None:
    home = quantized("mnist-resnet").folder.parent
    shutil.copytree(home, repository.root / home.name)
    (repository.root / home.name / "config.pbtxt").write_text("version_policy: { all: {} }")
    labels = repository.root / home.name / "labels.json"
    labels.write_text(json.dumps({"float": 1, "int8": 2}))
    spaces = set()
    with Client(start_server().address) as client:
        for version, label in ((1, "float"), (2, "int8")):
            golden = load_golden(home / str(version) / "golden.npz")
            model = client.model(home.name, label)
            assert model.summary.version == version
            assert model.golden is not None
            assert model.golden.max_absolute_error == 0 or version == 1
            assert model.card is not None
            assert (model.card.quantization is not None) == (version == 2)
            embeddings = client.embed(home.name, golden.inputs, version=label)
            spaces.add(embeddings.space_id)
            assert np.allclose(embeddings.vectors, golden.outputs["embedding"], atol=1e-4)
    assert len(spaces) == 2


def test_untrained_resnets_are_published_in_float_and_int8(workspace: Workspace) -> None:
    parent = publish_untrained(find_architecture("resnet-18"), workspace)
    child = quantize_untrained(parent, workspace)

    assert parent.folder == workspace.models / "resnet-18" / "1"
    assert child.folder == workspace.models / "resnet-18" / "2"
    exact, rounded = (
        load_golden(published.folder / "golden.npz").outputs for published in (parent, child)
    )
    for name in ("logits", "embedding"):
        assert 0.1 < exact[name].std() < 10
        assert np.corrcoef(exact[name].ravel(), rounded[name].ravel())[0, 1] > 0.9
    for published in (parent, child):
        card = published.card
        assert card.description.startswith("UNTRAINED")
        assert (card.recipe, card.parameters, dict(card.metrics)) == ("", 11_689_512, {})
        assert not card.HasField("data")
        shapes = [list(spec.shape) for spec in card.signature.outputs]
        assert shapes == [[-1, 1000], [-1, 512]]
    with pytest.raises(TrainerError, match="resnet-18"):
        quantize("resnet-18", 1, 1.0, workspace)
