"""What the recipes on function approximation claim."""

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.preprocessing import StandardScaler
from training import Publish, run_recipe

from forwardpass.artefact import load_golden
from forwardpass.trainer.data import penguins, playground, seattle_weather
from forwardpass.trainer.data.dataset import Dataset
from forwardpass.trainer.errors import SettingError
from forwardpass.trainer.evaluation import predict, r2, rmse
from forwardpass.trainer.models.scaling import Standardize
from forwardpass.trainer.recipes import find_recipe, perceptron, regression
from forwardpass.trainer.recipes import playground as playground_recipe
from forwardpass.trainer.recipes.perceptron import RESPONSES, start_neurons
from forwardpass.trainer.recipes.playground import weights
from forwardpass.trainer.training.checkpoints import Run
from forwardpass.trainer.training.schedules import one_cycle
from forwardpass.trainer.training.seeds import seed_everything
from forwardpass.trainer.training.settings import parse_settings
from forwardpass.trainer.training.workspace import Workspace

KINDS: tuple[playground.Kind, ...] = ("circle", "xor", "gaussian", "spiral")


@pytest.fixture
def weather(workspace: Workspace) -> Dataset:
    return seattle_weather.load(workspace.cache, workspace.reporter)


def fitter(data: Dataset, folder: Path, workspace: Workspace, *pairs: str) -> regression.Fitter:
    settings = parse_settings(regression.Settings, ["accelerator=cpu", *pairs])
    return regression.Fitter(data, settings, Run(folder, workspace.reporter))


def test_the_weather_is_of_whole_years(weather: Dataset) -> None:
    assert (len(weather.train), len(weather.validation), len(weather.test)) == (731, 365, 365)
    for split in (weather.train, weather.validation, weather.test):
        assert (split.inputs.min(), split.inputs[0, 0]) == (1, 1)
        assert split.targets.min() < 5
        assert split.targets.max() > 30
    assert weather.train.inputs.max() == 366  # of 2012


def test_penguins_of_each_kind_are_in_every_split(workspace: Workspace) -> None:
    data = penguins.load(workspace.cache, workspace.reporter)

    assert (len(data.train), len(data.validation), len(data.test)) == (195, 50, 80)
    for split in (data.train, data.validation, data.test):
        carbon, mass, male, species = split.targets.T
        assert -28 < carbon.min() < carbon.max() < -23
        assert 2.5 < mass.min() < mass.max() < 6.5
        assert set(male.tolist()) == {0, 1}
        shares = np.bincount(species.astype(int)) / len(split)
        assert abs(shares - np.array([139, 68, 118]) / 325).max() < 0.015


def test_gradient_descent_comes_to_the_least_squares(
    weather: Dataset, tmp_path: Path, workspace: Workspace
) -> None:
    x, y = weather.train.inputs[:, 0].astype(float), weather.train.targets[:, 0].astype(float)
    fits = fitter(weather, tmp_path, workspace)
    days = fits.days()
    for degree in (1, 3):
        model, early = fits.polynomial(degree), fits.polynomial(degree)
        fits.fit(f"degree-{degree}", model, days, schedule=one_cycle, keep_last=True)
        fits.fit(f"early-{degree}", early, fits.train, epochs=1)
        closed = np.polynomial.Polynomial.fit(x, y, degree)(regression.DAYS)

        # Of temperatures that differ by 7 degrees from one another and from the cubic by 4.
        assert abs(predict(model, regression.DAYS)[0] - closed).max() < 0.1
        assert abs(predict(early, regression.DAYS)[0] - closed).max() > 0.1


def test_a_line_underfits_and_a_cubic_does_less(
    weather: Dataset, tmp_path: Path, workspace: Workspace
) -> None:
    fits = fitter(weather, tmp_path, workspace, "epochs=5")
    errors = {}
    for degree in (1, 3):
        model = fits.polynomial(degree)
        fits.fit(f"degree-{degree}", model, fits.days(), schedule=one_cycle, keep_last=True)
        for split in (weather.train, weather.test):
            answers = predict(model, split.inputs)[0]
            errors[degree, len(split)] = rmse(answers, split.targets)

    # It is as bad on what it learned from as on what it did not.
    assert 7 < errors[1, 731] < errors[1, 365] < 8
    assert errors[3, 731] < errors[3, 365] < 5


def test_a_large_network_learns_few_days_by_heart_unless_it_is_held(
    weather: Dataset, tmp_path: Path, workspace: Workspace
) -> None:
    fits = fitter(weather, tmp_path, workspace, "few_epochs=12")

    _, courses = regression.fit_few(fits)

    free, held = courses["no regularisation"], courses["weight decay"]
    assert free.train[-1] < held.train[-1]
    assert free.validation[-1] > held.validation[-1] + 0.3
    assert free.train[-1] < free.train[1]
    assert free.validation[-1] > min(free.validation) + 0.3
    stopped = courses["early stopping"]
    assert len(stopped.validation) < len(free.validation)
    kept = rmse(
        stopped.values[weather.validation.inputs[:, 0].astype(int) - 1], weather.validation.targets
    )
    assert kept == pytest.approx(min(stopped.validation), rel=1e-3)


def test_units_and_losses_match_what_is_told(publish_once: Publish) -> None:
    card = publish_once("perceptron").card

    assert card.parameters == 3 * (3 + 1) + 3 * (3 + 1)
    assert card.metrics["carbon_r2"] > 0.3
    assert card.metrics["mass_r2"] > 0.6
    assert card.metrics["male_accuracy"] > 0.7  # 36 of 80 are male
    assert card.metrics["species_accuracy"] > 0.9


def test_neurons_come_to_what_is_known_to_be_best(tmp_path: Path, workspace: Workspace) -> None:
    data = penguins.load(workspace.cache, workspace.reporter)
    settings = parse_settings(perceptron.Settings, ["accelerator=cpu"])
    scale = StandardScaler().fit(data.train.inputs)
    learned, asked = scale.transform(data.train.inputs), scale.transform(data.test.inputs)
    known = {
        "carbon": LinearRegression().fit(learned, data.train.targets[:, 0]).predict(asked),
        "male": LogisticRegression(C=1e6)
        .fit(learned, data.train.targets[:, 2])
        .decision_function(asked),
    }

    for name, sums in known.items():
        neurons, _ = perceptron.learn(name, data, settings, Run(tmp_path, workspace.reporter))
        answers = predict(neurons, asked.astype(np.float32))[0][:, 0]

        assert rmse(answers, sums) < 0.1 * sums.std()


def test_the_matching_loss_moves_a_neuron_that_is_sure_and_wrong() -> None:
    """And squared error, through the same sigmoid, does not."""
    target = torch.ones(1, 1)
    slopes = []
    for loss in (
        RESPONSES["male"].loss,
        lambda sums, targets: torch.nn.functional.mse_loss(sums.sigmoid(), targets),
    ):
        sums = torch.full((1, 1), -20.0, requires_grad=True)
        (slope,) = torch.autograd.grad(loss(sums, target), sums)
        slopes.append(slope.item())

    assert slopes[0] == pytest.approx(-1)
    assert -1e-6 < slopes[1] < 0


def test_a_relu_unit_starts_where_it_can_learn(workspace: Workspace) -> None:
    rows = penguins.load(workspace.cache, workspace.reporter).train.rows()
    inputs = Standardize.of(rows.inputs)(rows.inputs)
    response = RESPONSES["mass"]
    dead = {"random": 0, "above 0": 0}
    for seed in range(100):
        seed_everything(seed, "weights", "mass")
        random = torch.nn.Linear(3, 1)
        for start, neuron in (("random", random), ("above 0", start_neurons(3, response))):
            loss = response.loss(neuron(inputs), response.targets(rows))
            slopes = torch.autograd.grad(loss, list(neuron.parameters()))
            dead[start] += not any(slope.any() for slope in slopes)

    assert dead["random"] > 0
    assert dead["above 0"] == 0


@pytest.mark.parametrize("kind", KINDS)
def test_points_are_where_the_page_draws_them(kind: playground.Kind) -> None:
    points = playground.draw(kind, noise=0, seed=3)

    x, y = points.inputs.T
    classes = points.targets[:, 0]
    assert (points.inputs.shape, points.targets.shape) == ((500, 2), (500, 1))
    if kind != "xor":
        assert classes.sum() == 0
    radius = np.hypot(x, y)
    if kind == "circle":
        assert ((radius < 2.5) == (classes > 0)).all()
        assert not ((radius > 2.5) & (radius < 3.5)).any()
    elif kind == "xor":
        assert ((x * y > 0) == (classes > 0)).all()
        assert min(abs(x).min(), abs(y).min()) >= 0.3
        assert max(abs(x).max(), abs(y).max()) <= 5.3
    elif kind == "gaussian":
        for sign in (-1, 1):
            own = points.inputs[classes == sign]
            np.testing.assert_allclose(own.mean(axis=0), 2 * sign, atol=0.2)
            np.testing.assert_allclose(own.var(axis=0), 0.5, atol=0.15)
    else:
        # Along an arm the angle grows with the radius: 1.75 turns in 5.
        turns = np.arctan2(x, y) / (2 * np.pi) - 0.35 * radius
        expected = np.where(classes > 0, 0, 0.5)
        off = (turns - expected + 0.5) % 1 - 0.5
        assert abs(off[radius > 0.1]).max() < 1e-3


def test_noise_and_seed_change_points_and_nothing_else_does() -> None:
    first = playground.draw("circle", noise=0, seed=0)

    assert (playground.draw("circle", noise=0, seed=0).inputs == first.inputs).all()
    assert (playground.draw("circle", noise=0, seed=1).inputs != first.inputs).any()
    for kind in KINDS:
        clean, noisy = (playground.draw(kind, noise=noise, seed=0) for noise in (0, 0.5))
        moved = (clean.inputs != noisy.inputs).any() or (clean.targets != noisy.targets).any()
        assert moved, kind


def play(folder: Path, workspace: Workspace, *pairs: str) -> tuple[torch.nn.Sequential, float]:
    """Returns the network and the share of test points that it tells right."""
    settings = parse_settings(playground_recipe.Settings, ["accelerator=cpu", *pairs])
    folder.mkdir(exist_ok=True)
    data = playground_recipe.load(settings, workspace)
    seed_everything(settings.seed, "weights")  # as before every recipe's train
    network, _ = playground_recipe.learn(settings, data, Run(folder, workspace.reporter))
    (answers,) = predict(network, data.test.inputs)
    return network, float(np.mean(np.sign(answers) == data.test.targets))


@pytest.mark.parametrize(
    ("pairs", "least"),
    [
        (["data=gaussian", "hidden=", "epochs=5"], 0.99),
        (["data=xor", "hidden=4", "activation=relu", "epochs=30"], 0.95),
    ],
)
def test_the_playground_tells_classes_apart(
    pairs: list[str], least: float, tmp_path: Path, workspace: Workspace
) -> None:
    _, right = play(tmp_path, workspace, *pairs)

    assert right >= least


def test_without_a_bend_between_layers_a_deep_network_is_a_line(
    tmp_path: Path, workspace: Workspace
) -> None:
    network, right = play(
        tmp_path, workspace, "data=xor", "hidden=8-8", "activation=linear", "epochs=10"
    )

    assert [weight.shape for weight in weights(network)] == [(8, 2), (8, 8), (1, 8)]
    assert right < 0.7


def test_l1_makes_weights_zero_and_l2_makes_them_small(
    tmp_path: Path, workspace: Workspace
) -> None:
    zeros, sizes = {}, {}
    for kind in ("none", "l1", "l2"):
        pairs = [f"regularization={kind}", "regularization_rate=0.03", "epochs=20"]
        network, _ = play(tmp_path / kind, workspace, *pairs)
        links = torch.cat([weight.ravel() for weight in weights(network)])
        zeros[kind] = int((links == 0).sum())
        sizes[kind] = links.square().sum().item()

    assert zeros["none"] == zeros["l2"] == 0
    assert zeros["l1"] >= 3
    assert sizes["l2"] < sizes["none"]


@pytest.mark.parametrize("share", ["0.05", "0.95"])
def test_the_playground_needs_points_to_learn_from_and_to_test_on(share: str) -> None:
    recipe = find_recipe("playground")

    with pytest.raises(SettingError, match=f"train_share={share}: give a share of at least 0.1"):
        parse_settings(recipe.settings, [f"train_share={share}"])


def test_a_playground_without_hidden_units_has_no_picture_of_them(workspace: Workspace) -> None:
    folder = run_recipe("playground", workspace, "hidden=", "epochs=1").folder

    plots = {path.name for path in (folder / "plots").iterdir()}
    assert plots == {"decision-boundary.png", "losses.png"}
    assert load_golden(folder / "golden.npz").outputs["value"].shape == (8, 1)


def test_r2_is_zero_for_the_mean_and_one_for_the_truth() -> None:
    targets = np.array([[1.0], [2.0], [6.0]], np.float32)

    assert r2(targets, targets) == 1
    assert r2(np.full_like(targets, 3), targets) == pytest.approx(0)
    assert r2(-targets, targets) < 0
    assert rmse(targets + 2, targets) == pytest.approx(2)
