"""The recipes that learn from a CSV file of one's own."""

import csv
import io
import math
import os
import random
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper
from sklearn.feature_extraction.text import CountVectorizer
from training import EXAMPLES, Publish, run_recipe

from forwardpass.artefact import load_golden
from forwardpass.trainer import forecasting
from forwardpass.trainer.data import own_series
from forwardpass.trainer.errors import DataError, SettingError, UnknownNameError
from forwardpass.trainer.export.front import COUNTS, Front
from forwardpass.trainer.export.parity import open_session
from forwardpass.trainer.recipes import find_recipe, table, text_classifier
from forwardpass.trainer.running import train
from forwardpass.trainer.training.own_data import epochs_of
from forwardpass.trainer.training.settings import parse_settings
from forwardpass.trainer.training.workspace import Workspace
from forwardpass.v1 import model_card_pb2 as pb
from forwardpass.wire import Array


def write_mine(path: Path) -> Path:
    """Sixty rows: y is 3 x, and a little more in the south."""
    draws = random.Random(0)
    with path.open("w", encoding="utf-8", newline="") as opened:
        writer = csv.writer(opened)
        writer.writerow(["x", "side", "same", "y"])
        for row in range(60):
            x, side = round(draws.uniform(0, 9), 3), draws.choice(["north", "south"])
            y = 3 * x + (side == "south") + draws.gauss(0, 0.1)
            writer.writerow(["" if row % 9 == 4 else x, side, "same", "" if row == 7 else y])
    return path


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return write_mine(tmp_path / "mine.csv")


def test_numbers_are_told_too_under_a_name_of_ones_own(file: Path, workspace: Workspace) -> None:
    pairs = (f"data={file}", "target=y", "epochs=30", "name=my-numbers")
    published = run_recipe("table", workspace, *pairs)
    assert published.folder == workspace.models / "my-numbers" / "1"
    card = published.card
    assert card.description == (
        "Tells y, a number since its values are 59 different numbers, from 2 columns of mine.csv."
    )
    assert card.data.left_out == {"column": 1, "row": 1}
    assert card.metrics.keys() == {
        *("rmse", "mean_absolute_error", "r2"),
        *("gradient_boosting_rmse", "ridge_regression_rmse", "mean_rmse"),
    }
    assert card.metrics["rmse"] < card.metrics["mean_rmse"]
    assert [(spec.name, spec.role) for spec in card.signature.outputs] == [
        ("value", pb.TENSOR_ROLE_VALUES)
    ]
    # No folder of the person's is on the card.
    assert (card.recipe, card.settings["data"], card.data.origin) == (
        *("table", "mine.csv", "mine.csv"),
    )
    (listed,) = workspace.runs.glob("table/*/left-out.csv")
    rows = list(csv.DictReader(io.StringIO(listed.read_text())))
    assert [(row["what"], row["column"], row["line"]) for row in rows] == [
        ("row", "", "9"),
        ("column", "same", ""),
    ]


def test_other_data_of_the_same_name_are_another_run(file: Path, workspace: Workspace) -> None:
    recipe = find_recipe("table")
    settings = parse_settings(recipe.settings, [f"data={file}", "target=side", "epochs=1"])
    for text in ("south", "South"):
        file.write_text(file.read_text().replace("south", text))
        train(recipe, settings, workspace)
    assert len(list(workspace.runs.glob("table/*"))) == 2


def test_what_is_far_off_unknown_or_missing_is_answered(publish_once: Publish) -> None:
    folder = publish_once("table").folder
    golden = load_golden(folder / "golden.npz")
    last = {name: array[-1, 0] for name, array in golden.inputs.items()}
    assert all(value == "" or np.isnan(value) for value in last.values())
    session = open_session((folder / "model.onnx").read_bytes())
    row = {name: array[:1] for name, array in golden.inputs.items()}

    def probabilities(**changes: object) -> Array:
        changed = {
            name: np.full((1, 1), changes[name], array.dtype) if name in changes else array
            for name, array in row.items()
        }
        (answer,) = session.run(None, changed)
        assert np.isfinite(answer).all()
        return np.asarray(answer[0])

    usual = probabilities()
    assert usual.sum() == pytest.approx(1, abs=1e-5)
    # However far a number is off, it is as ten deviations.
    np.testing.assert_array_equal(probabilities(year=1e30), probabilities(year=math.inf))
    unknown = probabilities(island="Atlantis")
    np.testing.assert_array_equal(unknown, probabilities(island="Utopia"))
    assert (unknown != usual).any()
    assert (probabilities(bill_length_mm=math.nan) != usual).any()


def test_a_name_that_is_no_models_is_refused(workspace: Workspace) -> None:
    with pytest.raises(SettingError, match=r"name=\.\./sides: give letters, digits"):
        run_recipe("table", workspace, "name=../sides")


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ("table", "table learns from data of yours: give data and target, such as by forward"),
        ("text-classifier", "give data and text and target, such as by"),
        ("forecaster", "give data and value, such as by forwardpass-train run forecaster data="),
    ],
)
def test_without_a_file_what_to_give_is_told(
    recipe: str, message: str, workspace: Workspace
) -> None:
    with pytest.raises(SettingError, match=message):
        run_recipe(recipe, workspace)


@pytest.mark.parametrize(
    ("recipe", "more"),
    [
        ("table", ("target=y",)),
        ("text-classifier", ("text=x", "target=y")),
        ("forecaster", ("value=y",)),
        ("image-classifier", ()),
        ("image-gan", ()),
    ],
)
def test_data_that_is_not_there_is_refused_and_a_fifo_never_waited_for(
    recipe: str, more: tuple[str, ...], workspace: Workspace, tmp_path: Path
) -> None:
    os.mkfifo(tmp_path / "pipe.csv")
    for given, message in (
        (tmp_path / "pipe.csv", r"data=.*pipe\.csv is a FIFO; give a regular file or a folder"),
        (tmp_path / "no.csv", r"data=.*no\.csv: No such file or directory; give the path of a"),
    ):
        with pytest.raises(DataError, match=message):
            run_recipe(recipe, workspace, f"data={given}", *more)


def test_a_home_folder_may_be_written_as_a_shell_would(
    file: Path, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(file.parent))
    settings = table.Settings(data="~/mine.csv", target="side")
    assert len(table.load(settings, workspace).train) == 39


def test_what_cannot_be_had_ends_before_anything_is_trained(
    file: Path, workspace: Workspace
) -> None:
    with pytest.raises(UnknownNameError, match=r"no column in mine\.csv 'sides'; did you mean 's"):
        run_recipe("table", workspace, f"data={file}", "target=sides")
    file.write_text(file.read_text().replace("x,side", "value,side"))
    with pytest.raises(SettingError, match="a column called 'value', as the model's output is"):
        run_recipe("table", workspace, f"data={file}", "target=y")
    sunspots = (f"data={EXAMPLES / 'sunspots.csv'}", "value=spots")
    with pytest.raises(SettingError, match="scale=log, but the least value is 0: give scale=lin"):
        run_recipe("forecaster", workspace, *sunspots, "scale=log")
    assert not workspace.models.exists()


def test_a_series_without_a_season_is_compared_with_the_last_value() -> None:
    series = own_series.load(EXAMPLES / "sunspots.csv", "spots")
    metrics = forecasting.measure(series.truth, series)
    assert metrics["mean_absolute_error"] == metrics["ratio_to_last_value"] == 0
    assert metrics["mean_absolute_error_last_value"] > 20
    assert len(metrics) == 3


def test_words_of_any_script_are_cut_alike_in_python_and_in_the_graph() -> None:
    texts = [
        "はい、元気です。\u3000ええ",
        "Привет, как дела? ΑΒΓ İstanbul",
        "Größe: \u00abschön\u00bb \u2013 na\u00efve\u00a0caf\u00e9\u2028\u201cx\u201d",
        "don't STOP!!! $$$ 100% 👍ok \x00\x01 x_y-z a.b@c.de\r\n\ttab \u0663 \u00bd",
    ]
    vectorizer = CountVectorizer(token_pattern=text_classifier.WORD, lowercase=False).fit(texts)
    front = Front(vectorizer)
    assert {"はい", "元気です", "как", "Größe", "schön", "don't", "!!!", "$$$"} < set(front.words)
    value = helper.make_tensor_value_info(COUNTS, TensorProto.FLOAT, ["n", len(front.words)])
    told = helper.make_tensor_value_info("told", TensorProto.FLOAT, ["n", len(front.words)])
    head = helper.make_model(
        helper.make_graph([helper.make_node("Identity", [COUNTS], ["told"])], "", [value], [told]),
        ir_version=10,
        opset_imports=[helper.make_opsetid("", 20)],
    )
    session = open_session(front.join(head, "text").SerializeToString())
    (counts,) = session.run(None, {"text": np.array(texts, object)})
    np.testing.assert_array_equal(counts, front.counts(texts))


def test_a_files_vocabulary_is_bounded_by_memory() -> None:
    assert text_classifier.most_words(1000, 20_000) == 20_000
    assert text_classifier.most_words(1 << 20, 20_000) == 256


def test_few_rows_are_passed_over_more_often() -> None:
    assert epochs_of(3000, rows=42, batch_size=32) == 100
    assert epochs_of(3000, rows=3200, batch_size=32) == 30
    assert epochs_of(3000, rows=10**6, batch_size=32) == 5


def test_a_category_that_one_row_alone_has_is_not_learned() -> None:
    colours = np.array([["red"], ["red"], ["blue"], ["blue"], ["odd"]], object)
    (features,) = table.fit_front({"colour": colours}).apply({"colour": colours}).values()
    np.testing.assert_array_equal(features, [[0, 1], [0, 1], [1, 0], [1, 0], [0, 0]])
