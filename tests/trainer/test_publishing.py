"""Models of one's own, from what a person has in hand to what `forwardpass predict` answers."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from rich.console import Console
from sklearn.datasets import load_iris
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn

from forwardpass.artefact import load_golden, verify_manifest
from forwardpass.client import Client
from forwardpass.pixels import encode_png
from forwardpass.server.app import Server
from forwardpass.server.settings import Settings
from forwardpass.trainer import ParityError, Pixels, PublishError, TrainerError, publish
from forwardpass.trainer.data.packages import Package, fetch, members
from forwardpass.trainer.training.progress import Reporter
from forwardpass.wire import Array

from . import commands

# Some MB each, of which the ONNX files alone are used.
MAGIKA = Package(
    index="pypi",
    requirement="magika==1.0.3",
    file="magika-1.0.3-py3-none-manylinux_2_28_x86_64.whl",
    sha256="3e9b49134e8116ee40b431664dcbed9e199413efddcce1a173c734b4e0521529",
)
SILERO = Package(
    index="pypi",
    requirement="silero-vad==6.2.3",
    file="silero_vad-6.2.3-py3-none-any.whl",
    sha256="7b7f5436cfcb02fae583a05b512ea96467fd449fe54cb49a5e4f06c51a1e43b8",
)
IRIS = load_iris()
MAILS = ["free money now", "win money", "dear friend, lunch?", "see you at noon"]
DIGITS = np.random.default_rng(0).integers(0, 256, (6, 28, 28, 1), dtype=np.uint8)


class LeNet(nn.Sequential):
    """LeNet-5, as a user writes it: float (n, 1, 28, 28) to logits (n, 10)."""

    def __init__(self) -> None:
        super().__init__(
            *(nn.Conv2d(1, 6, 5, padding=2), nn.Tanh(), nn.AvgPool2d(2)),
            *(nn.Conv2d(6, 16, 5), nn.Tanh(), nn.AvgPool2d(2)),
            *(nn.Flatten(), nn.Linear(400, 120), nn.Tanh()),
            *(nn.Linear(120, 84), nn.Tanh(), nn.Linear(84, 10)),
        )


class Matching(nn.Module):
    """Takes two inputs, and returns a dict."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.item = nn.Linear(3, 4), nn.Linear(5, 4)

    def forward(self, query: Tensor, item: Tensor) -> dict[str, Tensor]:
        left, right = self.query(query), self.item(item)
        return {"score": (left * right).sum(dim=1, keepdim=True), "embedding": left}


PAIR = {
    "query": np.random.default_rng(1).standard_normal((4, 3)).astype(np.float32),
    "item": np.random.default_rng(2).standard_normal((4, 5)).astype(np.float32),
}


def of_package(package: Package, name: str, cache: Path) -> bytes:
    reporter = Reporter(Console(quiet=True))
    return dict(members(fetch(package, cache, reporter), name))[name]


def magika_input(text: bytes) -> Array:
    """Returns the first and the last 1024 bytes of a file, as Magika pads them."""
    first, last = (np.frombuffer(part, np.uint8) for part in (text[:1024], text[-1024:]))
    padded = np.full(2048, 256, np.int32)
    padded[: len(first)] = first
    padded[2048 - len(last) :] = last
    return padded


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Path:
    """A repository of what people have who have trained no recipe."""
    folder = tmp_path_factory.mktemp("own") / "models"
    publish(
        LeNet(),
        "lenet",
        inputs={"image": DIGITS},
        outputs=["logits"],
        labels=list("0123456789"),
        metrics={"accuracy": 0.5},
        preprocess=Pixels(size=28, mean=0.13, std=0.31),
        plots={"digits.png": encode_png(DIGITS[0])},
        description="Reads digits.",
        models=folder,
    )
    iris = make_pipeline(StandardScaler(), LogisticRegression())
    iris.fit(IRIS.data, IRIS.target_names[IRIS.target])
    publish(iris, "iris", inputs={"features": IRIS.data}, models=folder)
    spam = make_pipeline(TfidfVectorizer(), LogisticRegression(C=1000))
    spam.fit(MAILS, ["spam", "spam", "ham", "ham"])
    publish(spam, "spam", inputs={"text": MAILS}, models=str(folder))
    publish(Matching(), "matching", inputs=PAIR, models=folder)

    home = "magika/models/standard_v3_3/"
    labels = json.loads(of_package(MAGIKA, home + "config.min.json", cache))["target_labels_space"]
    own = Path(__file__).read_bytes()
    sample = {
        "bytes": np.stack([magika_input(own), magika_input(b"<html><body>Hello</body>" * 20)])
    }
    magika = onnx.ModelProto.FromString(of_package(MAGIKA, home + "model.onnx", cache))
    publish(magika, "magika", inputs=sample, labels=labels, models=folder)

    silero = folder.parent / "silero.onnx"
    silero.write_bytes(of_package(SILERO, "silero_vad/data/silero_vad.onnx", cache))
    publish(silero, "silero", inputs=silence(), models=folder)
    return folder


def silence() -> dict[str, Any]:
    state = np.zeros((2, 1, 128), np.float32)
    return {"input": np.zeros((1, 576), np.float32), "state": state, "sr": np.int64(16000)}


@pytest.fixture(scope="module")
def address(models: Path) -> Iterator[str]:
    server = Server(Settings(models=models, port=0, metrics_port=0, threads=1))
    server.start()
    server.wait_loaded()
    yield server.address
    server.stop()


def predict(address: str, *arguments: object) -> Any:
    """Returns what `forwardpass predict --json` prints."""
    command = Path(sys.executable).with_name("forwardpass")
    done = subprocess.run(
        [command, "predict", *map(str, arguments), "--server", address, "--json"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def first_labels(answer: Any) -> list[str]:
    return [row["classes"][0]["label"] for row in answer["rows"]]


def test_every_version_is_whole_and_served(models: Path, address: str) -> None:
    for home in models.iterdir():
        verify_manifest(home / "1")
    with Client(address) as client:
        assert {model.name for model in client.models()} == {each.name for each in models.iterdir()}


def test_a_network_of_ones_own_is_asked_with_a_picture(address: str, tmp_path: Path) -> None:
    picture = tmp_path / "seven.png"
    picture.write_bytes(encode_png(DIGITS[0]))
    (label,) = first_labels(predict(address, "lenet", picture))
    assert label in "0123456789"
    with Client(address) as client:
        model = client.model("lenet")
        assert model.card is not None
        assert model.card.golden_source == "torch"
        assert model.card.metrics == {"accuracy": 0.5}
        (logits,) = client.predict("lenet", images=[picture]).outputs.values()
        answered = client.predict("lenet", {"image": DIGITS[:1]}).outputs["logits"]
    np.testing.assert_array_equal(logits, answered)


def test_a_pipeline_answers_with_its_classes(address: str, tmp_path: Path) -> None:
    rows = tmp_path / "rows.npy"
    np.save(rows, IRIS.data[[0, 60, 120]].astype(np.float32))
    labels = first_labels(predict(address, "iris", rows))
    assert labels == ["setosa", "versicolor", "virginica"]


def test_a_pipeline_of_texts_answers_texts(address: str) -> None:
    answer = predict(address, "spam", "--text", MAILS[0], "--text", MAILS[3])
    assert first_labels(answer) == ["spam", "ham"]


def test_two_inputs_are_answered_by_name(address: str, models: Path) -> None:
    golden = load_golden(models / "matching" / "1" / "golden.npz")
    with Client(address) as client:
        answered = client.predict("matching", PAIR).outputs
        vectors = client.embed("matching", PAIR).vectors
    np.testing.assert_allclose(answered["score"], golden.outputs["score"], atol=1e-5)
    np.testing.assert_allclose(vectors, golden.outputs["embedding"], atol=1e-5)


def test_a_foreign_file_answers_with_the_labels_it_was_given(address: str, tmp_path: Path) -> None:
    rows = tmp_path / "rows.npy"
    np.save(rows, magika_input(Path(__file__).read_bytes())[None])
    assert first_labels(predict(address, "magika", rows)) == ["python"]


def test_a_foreign_file_without_rows_runs_as_a_whole(address: str) -> None:
    with Client(address) as client:
        model = client.model("silero")
        outputs = client.predict("silero", silence()).outputs
    assert model.card is not None
    assert model.card.golden_source == "onnxruntime"
    assert not model.batching.enabled
    assert outputs["output"].shape == (1, 1)
    assert outputs["output"][0, 0] < 0.5  # nobody speaks


X = np.linspace(-1, 1, 12, dtype=np.float32).reshape(4, 3)


class BatchWise(nn.Module):
    """Lets rows change one another."""

    def forward(self, x: Tensor) -> Tensor:
        return x - x.mean(dim=0)


class TwoFaced(nn.Linear):
    """Answers otherwise once it is exported."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + (0.5 if torch.compiler.is_exporting() else 0)


class Constant(nn.Module):
    """Looks at nothing."""

    def forward(self, x: Tensor) -> Tensor:
        return x * 0 + 3


class Broken(nn.Module):
    """Takes the logarithm of what is negative."""

    def forward(self, x: Tensor) -> Tensor:
        return x.log()


@pytest.mark.parametrize(
    ("module", "error", "message"),
    [
        (
            BatchWise(),
            ParityError,
            r"output 'output'.*away from torch.*in a batch of 1.*over axis 0",
        ),
        (TwoFaced(3, 2), ParityError, r"is 0\.5 away from torch at row \d in a batch of 4"),
        (Constant(), PublishError, "output 'output' is the same for all 4 rows"),
        (Broken(), PublishError, "output 'output' is nan at row 0"),
        ("absent.onnx", PublishError, r"absent\.onnx cannot be read"),
        (print, PublishError, "the model is a builtin_function_or_method; give a torch nn.Module"),
    ],
)
def test_what_would_be_wrong_is_not_published(
    tmp_path: Path, module: Any, error: type[TrainerError], message: str
) -> None:
    with pytest.raises(error, match=message):
        publish(module, "net", inputs={"x": X}, models=tmp_path / "models")
    assert not (tmp_path / "models").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "../net"}, "the name '../net' is no model's"),
        ({"name": ""}, "the name '' is no model's"),
        ({"metrics": {"accuracy": float("nan")}}, "metric 'accuracy' is nan"),
        ({"plots": {"a.png": b"no picture"}}, "plot 'a.png' is no PNG file"),
        ({"plots": {"../a.png": encode_png(DIGITS[0])}}, "or its name is not NAME.png"),
        ({"labels": ["a", "b"]}, "2 labels, but no output has a score for each"),
        ({"inputs": {"x": X[:1]}}, "two rows or more"),
    ],
)
def test_what_is_said_of_a_model_must_be_true(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    given = {"name": "net", "inputs": {"x": X}, "models": tmp_path / "models", **changes}
    with pytest.raises(PublishError, match=message):
        publish(nn.Linear(3, 3), given.pop("name"), **given)
    assert not (tmp_path / "models").exists()


def test_what_is_before_an_estimator_belongs_into_its_pipeline() -> None:
    model = LogisticRegression().fit(X, [0, 1, 0, 1])
    with pytest.raises(PublishError, match="Pipeline, and publish that"):
        publish(model, "net", inputs={"x": X}, preprocess=Pixels(size=8))


def test_a_tolerance_has_the_size_of_the_answers(tmp_path: Path) -> None:
    scaled = nn.Linear(3, 2)
    with torch.no_grad():
        scaled.weight.mul_(1e-6)
        scaled.bias.mul_(1e-6)
    tolerance = publish(scaled, "net", inputs={"x": X}, models=tmp_path).card.tolerance
    assert tolerance.relative == 1e-3
    assert 0 < tolerance.absolute < 1e-8


def floats(tmp_path: Path) -> Path:
    """Writes an ONNX file that takes pictures as floats: the mean of each channel is its score."""
    value = helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["n", 3, 8, 8])
    result = helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", 3])
    nodes = [
        helper.make_node("GlobalAveragePool", ["pixels"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["scores"]),
    ]
    model = helper.make_model(
        helper.make_graph(nodes, "net", [value], [result]),
        opset_imports=[helper.make_opsetid("", 13)],
        ir_version=8,
    )
    onnx.save(model, tmp_path / "model.onnx")
    (tmp_path / "labels.txt").write_text("red\ngreen\nblue\n")
    samples = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3), dtype=np.uint8)
    np.savez(tmp_path / "samples.npz", pixels=samples)
    return tmp_path


ARGUMENTS = (
    *("publish", "model.onnx", "--name", "colours", "--golden", "samples.npz"),
    *("--labels", "labels.txt", "--image", "pixels"),
)
SCALED = (*ARGUMENTS, "--mean", "0.5", "--std", "0.25,0.5,1")


def test_a_file_is_published_from_the_command_line(tmp_path: Path) -> None:
    place = floats(tmp_path)
    done = commands.train(place, *SCALED, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["model"] == "models/colours/1/model.onnx"
    golden = load_golden(place / "models" / "colours" / "1" / "golden.npz")
    expected = (golden.inputs["pixels"] / 255 - 0.5) / np.array([0.25, 0.5, 1])
    np.testing.assert_allclose(golden.outputs["scores"], expected.mean(axis=(1, 2)), atol=1e-5)

    again = commands.train(place, *SCALED)
    assert "away from onnxruntime at most" in again.stdout
    assert (place / "models" / "colours" / "2").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (ARGUMENTS, "the graph takes 'pixels' as float: give --mean and --std"),
        ((*ARGUMENTS, "--image", "picture"), "samples.npz has no pictures named 'picture'"),
        ((*SCALED, "--labels", "none.txt"), "none.txt cannot be read"),
        ((*ARGUMENTS, "--golden", "labels.txt"), "labels.txt cannot be read as .npz"),
        ((*ARGUMENTS, "--mean", "a,b"), "'a,b' is not numbers with commas between"),
    ],
)
def test_files_that_do_not_fit_are_refused(
    tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    done = commands.train(floats(tmp_path), *arguments, environment={"COLUMNS": "200"})
    assert done.returncode in {1, 2}
    assert message in " ".join(done.stderr.split())
    assert not (tmp_path / "models").exists()
