"""A classifier of one's own pictures, by features of a published model or from scratch."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from training import PICTURES, MakeWorkspace, run_recipe

from forwardpass.artefact import load_golden
from forwardpass.client.local import LocalEmbedder
from forwardpass.trainer import Pixels, publish
from forwardpass.trainer.data import csv_file
from forwardpass.trainer.errors import DataError, SettingError, TrainerError
from forwardpass.trainer.export.embedder import Embedder
from forwardpass.trainer.export.parity import open_session
from forwardpass.trainer.export.published import Published, find_published
from forwardpass.trainer.training.workspace import Workspace
from forwardpass.wire import Filter, Preparation, Resize

from .commands import train


class Means(nn.Module):
    """Embeds a picture in the means of its 16 squares; what it calls them is in no way usual."""

    def __init__(self) -> None:
        super().__init__()
        self.behind = nn.Linear(48, 5)

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        means = nn.functional.avg_pool2d(pixels, 4).flatten(1)
        return {"scores": self.behind(means), "means": means}


@pytest.fixture(scope="module")
def embedder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a model that others might have published."""
    torch.manual_seed(0)
    sample = np.random.default_rng(0).integers(0, 256, (16, 16, 16, 3), np.uint8)
    published = publish(
        Means().eval(),
        "squares",
        inputs={"pixels": sample},
        outputs={"scores": "logits", "means": "embedding"},
        labels=list("abcde"),
        preprocess=Pixels(size=16, resize="crop", mean=0.5, std=0.25, filter="bicubic"),
        models=tmp_path_factory.mktemp("models"),
    )
    return published.folder


@pytest.fixture
def workspace(make_workspace: MakeWorkspace, embedder: Path) -> Workspace:
    workspace = make_workspace()
    home = workspace.models / "squares"
    home.mkdir(parents=True)
    (home / "1").symlink_to(embedder)
    return workspace


def run(workspace: Workspace, *pairs: str) -> Published:
    return run_recipe("image-classifier", workspace, f"data={PICTURES}", "draws=2", *pairs)


def test_a_head_on_features_is_one_graph_with_the_model_that_gives_them(
    workspace: Workspace, embedder: Path
) -> None:
    published = run(workspace, "features=squares", "name=shapes")

    card = published.card
    assert published.folder == workspace.models / "shapes" / "1"
    assert list(card.labels) == ["circle", "cross"]
    assert [(spec.name, *spec.shape) for spec in card.signature.inputs] == [
        ("image", -1, 16, 16, 3)
    ]
    assert [spec.name for spec in card.signature.outputs] == ["probabilities", "embedding"]
    # The layer behind the embedding, of 5 classes, is not there.
    assert card.parameters == (48 + 1) * 2
    assert card.golden_source == "onnxruntime"
    assert card.settings["data"] == "pictures"
    assert {plot.name for plot in (published.folder / "plots").iterdir()} == {
        "learning-curve.png",
        "confusion-matrix.png",
        "worst-mistakes.png",
    }
    images = load_golden(published.folder / "golden.npz").inputs["image"]
    session = open_session((published.folder / "model.onnx").read_bytes())
    probabilities, features = session.run(["probabilities", "embedding"], {"image": images})
    assert features == pytest.approx(LocalEmbedder(embedder).embed("pixels", images), abs=1e-5)
    assert probabilities.sum(axis=1) == pytest.approx(1)
    # It is prepared as for the model that gives the features.
    local = LocalEmbedder(published.folder).subject
    assert local.image is not None
    assert local.image.preparation == Preparation(Resize.CROP, filter=Filter.BICUBIC)


def test_features_tell_what_can_be_told_by_them(workspace: Workspace, tmp_path: Path) -> None:
    """Of four shades, from a CSV file in which not all is right, and with others to test on."""
    draw = np.random.default_rng(0)
    for name in ("learn", "ask"):
        lines = ["path;label"]
        (tmp_path / name).mkdir()
        for number in range(40):
            shade = number % 4
            pixels = draw.integers(60 * shade, 60 * shade + 60, (20, 20, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / name / f"{number}.png")
            label = ("noir", "gris", "clair", "été")[shade]
            lines.append(f"{name}/{number}.png;{label}")
        (tmp_path / f"{name}.csv").write_text("\n".join(lines), encoding="latin-1")
    (tmp_path / "cut.png").write_bytes((tmp_path / "learn" / "0.png").read_bytes()[:60])
    (tmp_path / "copy.png").write_bytes((tmp_path / "learn" / "0.png").read_bytes())
    with (tmp_path / "learn.csv").open("a") as table:
        table.write("\ncut.png;noir\ncopy.png;noir\n")

    card = run_recipe(
        "image-classifier",
        workspace,
        f"data={tmp_path / 'learn.csv'}",
        f"test={tmp_path / 'ask.csv'}",
        "features=squares",
        "decay=0.01",
        "draws=1",
    ).card

    assert list(card.labels) == ["clair", "gris", "noir", "été"]
    assert (card.data.train_rows, card.data.test_rows) == (40, 40)
    assert card.metrics["accuracy"] == card.metrics["balanced_accuracy"] == 1
    assert card.metrics["most_frequent_class_accuracy"] == 0.25
    # What is left out is counted on the card, and in a table beside the run.
    assert card.data.left_out == {"file": 2}
    (left_out,) = workspace.runs.glob("image-classifier/*/left-out.csv")
    assert csv_file.read(left_out).column("why") == ["unreadable", "duplicate"]


class StoppedError(Exception):
    """As if the run was killed."""


def test_a_run_that_was_killed_embeds_what_is_left(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    from forwardpass.trainer.recipes import image_classifier

    monkeypatch.setattr(image_classifier, "_PIECE", 4)
    embed = Embedder.embed
    embedded: list[int] = []

    def counted(most: int) -> Callable[..., object]:
        def counting(self: Embedder, images: np.ndarray) -> object:
            if sum(embedded) >= most:
                raise StoppedError
            embedded.append(len(images))
            return embed(self, images)

        return counting

    monkeypatch.setattr(Embedder, "embed", counted(12))
    with pytest.raises(StoppedError):
        run(workspace, "features=squares")
    monkeypatch.setattr(Embedder, "embed", counted(1000))
    run(workspace, "features=squares")

    assert sum(embedded) == 24
    assert not list(workspace.runs.glob("*/*/*.checkpoint"))


@pytest.mark.parametrize(
    ("network", "shape"),
    [("resnet-20", (32, 32, 3)), ("fashion", (28, 28, 1))],
)
def test_a_network_from_scratch_has_the_classes_of_the_folder(
    network: str, shape: tuple[int, ...], workspace: Workspace
) -> None:
    quick = ("features=none", f"network={network}", "epochs=1", "batch_size=6", "limit=8")
    card = run(workspace, *quick).card

    assert list(card.labels) == ["circle", "cross"]
    assert tuple(card.signature.inputs[0].shape[1:]) == shape
    assert list(card.signature.outputs[0].shape) == [-1, 2]
    # Its own, where no other is given.
    assert float(card.settings["learning_rate"]) in (0.1, 0.003)


@pytest.mark.parametrize(
    ("pairs", "error", "message"),
    [
        (
            [],
            SettingError,
            "give data, such as by forwardpass-train run image-classifier data=pets",
        ),
        (["data=nowhere"], DataError, "data=nowhere: No such file or directory; give the path"),
        (["data=.", "test=nowhere"], DataError, "test=nowhere: No such file or directory"),
        (["decay=0"], SettingError, "decay=0: give a number above 0"),
        (["features="], SettingError, "features= is empty: name a published model, or give none"),
        (["name=a/b"], SettingError, "name=a/b: give letters, digits"),
        ([f"data={PICTURES}", "features=nothing"], TrainerError, "needs a model 'nothing', which"),
    ],
)
def test_settings_that_lead_nowhere_are_told_before_anything_is_fetched(
    pairs: list[str], error: type[TrainerError], message: str, make_workspace: MakeWorkspace
) -> None:
    workspace = make_workspace(cache=Path("/nonexistent"))

    with pytest.raises(error, match=message):
        run_recipe("image-classifier", workspace, *pairs)
    assert not workspace.models.exists()


def test_features_of_a_model_that_gives_none_are_refused(
    make_workspace: MakeWorkspace,
) -> None:
    workspace = make_workspace()
    sample = np.random.default_rng(0).integers(0, 256, (8, 16, 16, 3), np.uint8)
    linear = nn.Sequential(nn.Flatten(), nn.Linear(768, 3)).eval()
    numbers = {"x": np.random.default_rng(0).normal(size=(8, 4)).astype(np.float32)}
    publish(
        linear,
        "blind",
        inputs={"input": sample},
        outputs=["scores"],
        preprocess=Pixels(size=16),
        models=workspace.models,
    )
    publish(
        nn.Linear(4, 3).eval(),
        "numbers",
        inputs={"input": numbers["x"]},
        outputs={"vector": "embedding"},
        models=workspace.models,
    )

    with pytest.raises(SettingError, match=r"features=blind: .* has no embedding output"):
        run(workspace, "features=blind")
    with pytest.raises(SettingError, match=r"features=numbers: .* does not take pictures alone"):
        run(workspace, "features=numbers")


@pytest.mark.heavy
def test_the_usual_features_are_published_first_whatever_the_limit(
    make_workspace: MakeWorkspace,
) -> None:
    workspace = make_workspace(keeps_limited_apart=True)

    published = run_recipe("image-classifier", workspace, f"data={PICTURES}", "limit=6", "draws=1")

    assert published.folder == workspace.models / "image-classifier-limited" / "1"
    assert published.card.parameters == 23_538_690
    assert find_published(workspace.models, "resnet50-imagenet", None).card.settings["limit"] == "0"


def test_a_sweep_chooses_by_pictures_that_a_head_was_not_fitted_to(
    workspace: Workspace, tmp_path: Path
) -> None:
    done = train(
        tmp_path,
        "run",
        "image-classifier",
        f"data={os.path.relpath(PICTURES, tmp_path)}",
        "features=squares",
        "draws=1",
        "--sweep",
        "decay=0.1,10",
        "--models",
        str(workspace.models),
        environment={"COLUMNS": "200", "NO_COLOR": "1"},
    )

    assert done.returncode == 0, done.stderr
    assert "validation accuracy" in done.stdout
    assert "away from onnxruntime" in done.stdout
