"""Every recipe, for a few steps, through to what a server would load."""

import inspect
import math
import shutil
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from training import QUICK, MakeWorkspace, run_recipe

from forwardpass.artefact import (
    CARD_KEY,
    card_from_json,
    draw_latents,
    file_digest,
    load_golden,
    verify_manifest,
    within,
)
from forwardpass.pixels import decode_image
from forwardpass.trainer.errors import SettingError, TrainerError
from forwardpass.trainer.export.parity import open_session
from forwardpass.trainer.export.published import Published
from forwardpass.trainer.recipes import RECIPES, cifar10_resnet
from forwardpass.trainer.training.settings import parse_settings
from forwardpass.trainer.training.workspace import Workspace
from forwardpass.v1 import model_card_pb2 as pb
from forwardpass.v1 import tensor_pb2
from forwardpass.wire import Array

Publish = Callable[[str], Published]
# What these publish takes a series of any length, (rows, steps).
OF_ANY_LENGTH = ("airline", "forecaster", "sunspots")
every_recipe = pytest.mark.parametrize("name", sorted(RECIPES))


@every_recipe
def test_it_publishes_what_onnx_runtime_answers_as_torch_did(
    name: str, publish_once: Publish
) -> None:
    folder = publish_once(name).folder
    manifest = verify_manifest(folder)
    card = card_from_json(card_text(folder))
    golden = load_golden(folder / "golden.npz")
    session = open_session((folder / "model.onnx").read_bytes())

    assert golden.rows == 8
    assert {"model.onnx", "golden.npz"} < manifest.files.keys()
    for batch in [slice(i, i + 1) for i in range(8)] + [slice(0, 8), slice(2, 7)]:
        answers = session.run(list(golden.outputs), {k: v[batch] for k, v in golden.inputs.items()})
        for expected, answer in zip(golden.outputs.values(), answers, strict=True):
            assert within(answer, expected[batch], card.tolerance)


@every_recipe
def test_its_card_says_what_the_graph_takes_and_gives(name: str, publish_once: Publish) -> None:
    published = publish_once(name)
    card = card_from_json(card_text(published.folder))
    golden = load_golden(published.folder / "golden.npz")

    card.schema_version = 0  # which only the JSON is stamped with
    assert card == published.card
    assert (card.recipe, card.seed, card.signature.batched) == (name, 0, True)
    for specs, arrays in (
        (card.signature.inputs, golden.inputs),
        (card.signature.outputs, golden.outputs),
    ):
        assert [spec.name for spec in specs] == list(arrays)
        for spec in specs:
            array = arrays[spec.name]
            rest = [-1] if name in OF_ANY_LENGTH else array.shape[1:]
            assert list(spec.shape) == [-1, *rest]
            assert spec.role != pb.TENSOR_ROLE_UNSPECIFIED
    assert card.description
    assert card.reference
    assert card.versions.keys() == {"python", "torch", "onnx", "onnxruntime", "forwardpass"}
    assert len(card.data.sha256) == 64
    if card.HasField("image") and card.data.train_rows:
        assert card.data.HasField("pixels")
    assert (card.parameters == 0) == (name == "kernels")  # whose weights nobody trains
    assert all(math.isfinite(value) for value in card.metrics.values())
    assert card.parity_error <= 1
    assert (card.row_independence.rows, card.threads) == (8, torch.get_num_threads())
    assert card.row_independence.max_relative_difference < 1e-3


@pytest.mark.parametrize("name", ["mnist-cgan", "mnist-gan"])
def test_the_card_of_a_generator_names_its_judge(
    name: str, publish_once: Publish, shared: Workspace
) -> None:
    judge = publish_once(name).card.judge
    assert judge.name == "mnist-cnn"
    folder = shared.models / judge.name / str(judge.version)
    assert judge.sha256 == file_digest(folder / "model.onnx")


@every_recipe
def test_what_can_be_quantised_says_so_and_has_what_it_takes(name: str) -> None:
    """What a recipe has imported of others is not its own."""
    recipe = RECIPES[name]
    module = import_module(f"forwardpass.trainer.recipes.{name.replace('-', '_')}")
    own = {key for key, value in vars(module).items() if inspect.isfunction(value)}
    own = {key for key in own if getattr(module, key).__module__ == module.__name__}
    assert recipe.quantizable is ("measure" in own)


@every_recipe
def test_its_file_says_nothing_of_where_it_was_made(name: str, publish_once: Publish) -> None:
    data = (publish_once(name).folder / "model.onnx").read_bytes()

    for trace in (b"stack_trace", b"site-packages", b".py", str(Path.home()).encode() + b"/"):
        assert trace not in data


@every_recipe
def test_its_plots_are_pictures(name: str, publish_once: Publish) -> None:
    plots = sorted((publish_once(name).folder / "plots").iterdir())

    assert plots
    for plot in plots:
        pixels = decode_image(plot.read_bytes(), channels=3)
        assert pixels.std() > 1, plot.name


@pytest.mark.parametrize("name", ["digits-mlp", "mnist-gan"])
def test_the_same_seed_makes_the_same_file(
    name: str, publish_once: Publish, make_workspace: MakeWorkspace, models_with_judge: Path
) -> None:
    first = publish_once(name).folder
    again = make_workspace(models=models_with_judge)
    second = run_recipe(name, again, *QUICK[name]).folder

    assert second != first
    for file in ("model.onnx", "golden.npz"):
        assert (second / file).read_bytes() == (first / file).read_bytes()


def test_kernels_shows_what_mnist_cnn_has_learned_where_there_is_one(
    publish_once: Publish, workspace: Workspace
) -> None:
    alone = run_recipe("kernels", workspace).folder
    shutil.copytree(publish_once("mnist-cnn").folder, workspace.models / "mnist-cnn" / "1")

    beside = run_recipe("kernels", workspace).folder

    heights = [
        decode_image((folder / "plots" / "filters.png").read_bytes(), channels=3).shape[0]
        for folder in (alone, beside)
    ]
    assert heights[0] < heights[1]
    for file in ("model.onnx", "golden.npz"):
        assert (alone / file).read_bytes() == (beside / file).read_bytes()


def test_xor_is_solved(publish_once: Publish) -> None:
    card = publish_once("xor").card

    assert card.parameters == 9
    assert card.metrics["accuracy"] == 1
    assert card.metrics["mean_squared_error"] < 1e-3


def test_xor_that_no_start_solves_publishes_nothing(workspace: Workspace) -> None:
    with pytest.raises(TrainerError, match="none of 2 random starts"):
        run_recipe("xor", workspace, "attempts=2", "epochs=1", "learning_rate=1e-9")
    assert not workspace.models.exists()


def test_a_loss_that_is_no_number_publishes_nothing(workspace: Workspace) -> None:
    with pytest.raises(TrainerError, match=r"at step \d+ of epoch \d, with a learning rate of"):
        run_recipe("digits-mlp", workspace, "epochs=3", "limit=200", "learning_rate=1e30")
    assert not workspace.models.exists()


def test_the_generators_loop_stops_at_a_loss_that_is_no_number(
    models_with_judge: Path, make_workspace: MakeWorkspace
) -> None:
    workspace = make_workspace(models=models_with_judge)
    with pytest.raises(TrainerError, match=r"at step \d+ of round \d"):
        run_recipe("mnist-gan", workspace, *QUICK["mnist-gan"], "learning_rate=1e38")
    assert [path.name for path in models_with_judge.iterdir()] == ["mnist-cnn"]


@pytest.mark.parametrize("depth", ["2", "21", "18"])
def test_cifar10_resnet_has_6_n_and_2_layers(depth: str) -> None:
    with pytest.raises(SettingError, match=f"depth={depth}: give 6 n \\+ 2, such as 20"):
        parse_settings(cifar10_resnet.Settings, [f"depth={depth}"])


def test_cifar10_resnets_settings_of_0_are_the_presets(
    publish_once: Publish, workspace: Workspace
) -> None:
    short = load_golden(publish_once("cifar10-resnet").folder / "golden.npz")

    def probabilities(*settings: str) -> Array:
        published = run_recipe("cifar10-resnet", workspace, *QUICK["cifar10-resnet"], *settings)
        return load_golden(published.folder / "golden.npz").outputs["probabilities"]

    assert (probabilities("learning_rate=0.2") == short.outputs["probabilities"]).all()
    assert (probabilities("preset=paper") != short.outputs["probabilities"]).any()
    assert publish_once("cifar10-resnet").card.settings["learning_rate"] == "0.2"


def test_cifar10_resnets_paper_preset_takes_the_papers_64_000_steps(workspace: Workspace) -> None:
    settings = cifar10_resnet.Settings(preset="paper")
    data = cifar10_resnet.load(settings, workspace)

    steps = math.ceil(len(data.train) / settings.batch_size)
    epochs = cifar10_resnet.PRESETS["paper"].epochs
    assert steps * (epochs - 1) < 64_000 <= steps * epochs


@pytest.mark.parametrize(("name", "parameters"), [("sunspots", 673), ("airline", 1233)])
def test_a_forecast_is_better_than_both_naive_ones(
    name: str, parameters: int, publish_once: Publish
) -> None:
    card = publish_once(name).card
    metrics = card.metrics

    # Before it has learned anything it repeats the last value.
    naive = min(
        metrics["mean_absolute_error_seasonal_naive"], metrics["mean_absolute_error_last_value"]
    )
    assert metrics["mean_absolute_error"] < 0.75 * naive
    assert card.parameters == parameters


def test_the_step_of_a_forecaster_says_which_output_its_state_comes_from(
    publish_once: Publish,
) -> None:
    for name, states in (("sunspots", ["h"]), ("airline", ["h", "c"])):
        step = publish_once(name).folder.parents[1] / f"{name}-step" / "1"
        card = card_from_json(card_text(step))
        pairs = [(pair.input, pair.output) for pair in card.signature.states]
        assert pairs == [(state, f"next_{state}") for state in states]


def test_text_names_its_characters_and_what_it_is_compared_with(publish_once: Publish) -> None:
    card = publish_once("text").card

    assert card.parameters == 273_297
    assert len(card.labels) == 81
    assert card.labels[0] == "\n"
    metrics = card.metrics
    # Who knows what came before foretells better: 4.47 and 3.68 bits after all of the book.
    assert metrics["bits_per_character_bigram"] < metrics["bits_per_character_unigram"] < 5


@pytest.mark.parametrize(
    ("pair", "changes_weights"),
    [
        ("schedule=constant", True),
        ("weight_decay=0.5", True),
        ("dropout=0.5", True),
        ("patience=9", False),  # it never comes to that
    ],
)
def test_a_knob_changes_what_is_learned(
    pair: str, *, changes_weights: bool, publish_once: Publish, workspace: Workspace
) -> None:
    card = run_recipe("mnist-cnn", workspace, *QUICK["mnist-cnn"], pair)

    usual = load_golden(publish_once("mnist-cnn").folder / "golden.npz").outputs["probabilities"]
    golden = load_golden(card.folder / "golden.npz").outputs["probabilities"]
    assert (not np.array_equal(golden, usual)) == changes_weights
    key, _, text = pair.partition("=")
    assert card.card.settings[key] == text


def test_mixed_precision_learns_as_well_and_is_on_the_card(workspace: Workspace) -> None:
    quick = ["epochs=8", "accelerator=cpu"]
    cards = [
        run_recipe("digits-mlp", workspace, *quick, f"precision={name}").card
        for name in ("32-true", "bf16-mixed")
    ]

    whole, mixed = cards
    assert mixed.settings["precision"] == "bf16-mixed"
    assert whole.metrics["accuracy"] > 0.9
    assert mixed.metrics["accuracy"] == pytest.approx(whole.metrics["accuracy"], abs=0.03)
    # What is published computes in float32.
    assert {spec.data_type for spec in mixed.signature.outputs} == {tensor_pb2.DATA_TYPE_FLOAT32}


def test_a_conditional_generator_draws_another_digit_for_another_class(
    publish_once: Publish,
) -> None:
    published = publish_once("mnist-cgan")
    session = open_session((published.folder / "model.onnx").read_bytes())
    latents = draw_latents(0, 10, 10)

    def draw(classes: NDArray[np.int64]) -> NDArray[np.uint8]:
        images: NDArray[np.uint8] = session.run(None, {"latent": latents, "class_index": classes})[
            0
        ]
        return images

    images = draw(np.arange(10))
    # A row's answer is its own, whatever class other rows have.
    zeros = draw(np.zeros(10, np.int64))
    np.testing.assert_array_equal(images[0], zeros[0])
    assert all((images[row] != zeros[row]).any() for row in range(1, 10))
    roles = [spec.role for spec in published.card.signature.inputs]
    assert roles == [pb.TENSOR_ROLE_LATENT, pb.TENSOR_ROLE_CLASS]
    assert list(published.card.labels) == list("0123456789")


def test_samples_follow_their_seeds_latents(publish_once: Publish) -> None:
    folder = publish_once("mnist-gan").folder
    golden = load_golden(folder / "golden.npz")

    assert golden.inputs["latent"].dtype == np.float32
    assert golden.outputs["images"].dtype == np.uint8


def card_text(folder: Path) -> str:
    model = onnx.load(folder / "model.onnx")
    return next(str(prop.value) for prop in model.metadata_props if prop.key == CARD_KEY)
