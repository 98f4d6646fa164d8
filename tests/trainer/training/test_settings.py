from dataclasses import dataclass
from typing import Annotated, Literal

import pytest
import torch

from forwardpass.trainer.errors import SettingError, UnknownNameError
from forwardpass.trainer.recipes import RECIPES
from forwardpass.trainer.training.settings import (
    Described,
    Settings,
    Supervised,
    Widths,
    describe,
    fingerprint,
    parse_settings,
)


@dataclass(frozen=True, kw_only=True)
class Knobs(Supervised):
    epochs: int = 5
    learning_rate: float = 0.1
    dropout: float = 0.0
    preset: Literal["full", "demo"] = "full"
    hidden: Widths = (4, 2)


def test_texts_become_values_of_their_fields_types() -> None:
    knobs = parse_settings(Knobs, ["epochs=7", "learning_rate=1e-3", "preset=demo", "epochs=8"])

    assert knobs == Knobs(epochs=8, learning_rate=0.001, preset="demo")
    assert knobs.as_text()["learning_rate"] == "0.001"


@pytest.mark.parametrize(("text", "widths"), [("8-6-4", (8, 6, 4)), ("3", (3,)), ("", ())])
def test_widths_are_typed_as_networks_are_named(text: str, widths: tuple[int, ...]) -> None:
    knobs = parse_settings(Knobs, [f"hidden={text}"])

    assert knobs.hidden == widths
    assert knobs.as_text()["hidden"] == text


def test_an_unknown_key_names_the_nearest_and_all() -> None:
    with pytest.raises(
        UnknownNameError, match=r"'epoch'; did you mean 'epochs'\?.*preset, schedule, seed"
    ):
        parse_settings(Knobs, ["epoch=3"])


@pytest.mark.parametrize(
    ("pair", "message"),
    [
        ("epochs", "write key=value"),
        ("epochs=many", "epochs=many: give a whole number"),
        ("epochs=1.5", "give a whole number"),
        ("epochs=0", "at least 1"),
        ("seed=-1", "at least 0"),
        ("learning_rate=fast", "give a number"),
        ("learning_rate=nan", "at least 0"),
        ("preset=huge", "give one of full, demo"),
        ("hidden=4,2", "hidden=4,2: give widths, such as 4-2"),
        ("hidden=4-0", "hidden=4-0: give widths of at least 1"),
        ("dropout=1", "give a number below 1"),
        ("devices=0", "at least 1"),
        ("schedule=cosinus", "give one of constant, one-cycle, cosine, step"),
    ],
)
def test_a_value_that_cannot_be_says_what_can(pair: str, message: str) -> None:
    with pytest.raises(SettingError, match=message):
        parse_settings(Knobs, [pair])


def test_a_0_that_is_the_default_may_be_given() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Preset(Settings):
        epochs: int = 0

    assert parse_settings(Preset, ["epochs=0"]) == Preset()
    with pytest.raises(SettingError, match="at least 0"):
        parse_settings(Preset, ["epochs=-1"])


def test_settings_are_described_with_type_default_and_meaning() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Told(Knobs):
        hidden: Annotated[Widths, "units of each layer"] = (8, 4)
        preset: Annotated[Literal["full", "demo"], "full: all steps; demo: few"] = "demo"
        patience: int = 3

    told = describe(Told)

    assert told[:2] == [
        Described("hidden", "widths, such as 4-2", "8-4", "units of each layer"),
        Described("preset", "one of full, demo", "demo", "full: all steps; demo: few"),
    ]
    by_name = {each.name: each for each in told}
    assert by_name.keys() == Told().as_text().keys()
    assert len(told) == len(by_name)
    # A class that only changes the default leaves the meaning that its base gives.
    assert by_name["patience"].default == "3"
    assert by_name["patience"].meaning.startswith("epochs without a better validation metric")


@pytest.mark.parametrize("name", RECIPES)
def test_every_setting_of_every_recipe_has_a_meaning(name: str) -> None:
    told = describe(RECIPES[name].settings)

    assert [each.name for each in told if not each.meaning] == []


def test_a_fingerprint_tells_runs_apart_by_all_that_changes_their_result() -> None:
    versions = {"torch": "2"}
    same = fingerprint("xor", Knobs(), "data", versions)

    assert fingerprint("xor", Knobs(), "data", versions) == same
    others = {
        fingerprint("digits-mlp", Knobs(), "data", versions),
        fingerprint("xor", Knobs(seed=1), "data", versions),
        fingerprint("xor", Knobs(), "other data", versions),
        fingerprint("xor", Knobs(), "data", {"torch": "3"}),
    }
    assert len(others | {same}) == 5


def test_a_run_with_other_threads_is_another_run() -> None:
    """They add up in another order, to slightly other weights."""
    threads = torch.get_num_threads()
    names = set()
    try:
        for count in (1, 2, 1):
            torch.set_num_threads(count)
            names.add(fingerprint("xor", Knobs(), "data", {}))
    finally:
        torch.set_num_threads(threads)
    assert len(names) == 2
