"""A recipe's settings: a frozen dataclass each, and how `key=value` becomes one."""

import dataclasses
import hashlib
import inspect
import json
import math
from collections.abc import Iterable
from typing import Annotated, Any, Literal, Self, TypeVar, get_args, get_origin, get_type_hints

from forwardpass.trainer.errors import SettingError, UnknownNameError
from forwardpass.trainer.training.schedules import ScheduleName

# A whole number that is not 0 by itself makes no sense at 0, but for these, which 0 turns off.
_OFF_AT_ZERO = ("patience", "shift")

# The card has a place for no greater one.
_MAX_SEED = (1 << 64) - 1
# Units of each hidden layer, typed as 4-2; without any there is no hidden layer.
Widths = tuple[int, ...]
# What a setting of each type takes.
_KINDS: dict[Any, str] = {
    int: "a whole number",
    float: "a number",
    str: "a text",
    Widths: "widths, such as 4-2",
}
# What several recipes have, each with its meaning: the text that a setting's type carries.
Epochs = Annotated[int, "passes over the training rows"]
BatchSize = Annotated[int, "rows of a step"]
PeakRate = Annotated[float, "at the top of its cycle"]
WeightDecay = Annotated[
    float, "share of each weight that AdamW takes off a step, times the learning rate"
]
Patience = Annotated[int, "epochs without a better validation metric before stopping; 0 for never"]
# Shares of something, of which all would leave nothing.
_BELOW_ONE = ("dropout", "average")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """What every recipe has. A recipe's own class adds its knobs.

    A knob's type carries its meaning, as in `seed`'s; a class that only changes the default of one
    need not say it again.

    Raises:
        SettingError: A number is negative, not finite, 0 where at least 1 is needed, 1 or more
            where a share is, or greater than a seed may be.
    """

    seed: Annotated[int, "every random number of the run derives from it"] = 0
    limit: Annotated[int, "use only so many rows of each split, for a quick try; 0 for all"] = 0
    accelerator: Annotated[str, "cpu, cuda, or whichever there is"] = "auto"
    precision: Annotated[Literal["32-true", "bf16-mixed"], "of the arithmetic while training"] = (
        "32-true"
    )

    def __post_init__(self) -> None:
        if self.seed > _MAX_SEED:
            raise SettingError(f"seed={self.seed}: give a number of at most {_MAX_SEED}")
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, tuple) and any(width < 1 for width in value):
                raise SettingError(f"{field.name}={_text(value)}: give widths of at least 1")
            if isinstance(value, (int, float)):
                counts = isinstance(field.default, int) and field.name not in _OFF_AT_ZERO
                least = 1 if counts and field.default else 0
                if not math.isfinite(value) or value < least:
                    raise SettingError(f"{field.name}={value}: give a number of at least {least}")
                if field.name in _BELOW_ONE and value >= 1:
                    raise SettingError(f"{field.name}={value}: give a number below 1")

    def resolved(self) -> Self:
        """Returns them with the values that they leave to a preset; the card has these."""
        return self

    def model_name(self, recipe: str) -> str:
        """Returns what the model is called: as its recipe, where the settings do not say else."""
        return recipe

    def needs(self) -> tuple[str, ...]:
        """Returns the names of published models that they ask for."""
        return ()

    def as_text(self) -> dict[str, str]:
        """Returns each setting by name, as a person would type it."""
        return {key: _text(value) for key, value in dataclasses.asdict(self).items()}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Supervised(Settings):
    """What every recipe has besides that learns by `fit`, with defaults of its own.

    Dropout is a knob of the networks that have a place for it.
    """

    epochs: Annotated[int, "at most; see patience"] = 10
    batch_size: Annotated[int, "rows of a step, over all processes"] = 64
    learning_rate: Annotated[float, "the highest; see schedule"] = 1e-3
    weight_decay: WeightDecay = 0.01
    schedule: Annotated[ScheduleName, "how the learning rate goes"] = "one-cycle"
    patience: Patience = 0
    devices: Annotated[int, "processes that share each step's rows"] = 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Adversarial(Settings):
    """What every recipe has besides that learns by `adversarial.play`."""

    batch_size: BatchSize = 32
    learning_rate: Annotated[float, "of both players"] = 2e-3
    width: Annotated[int, "channels of the outermost layers, of both players"] = 32
    average: Annotated[float, "decay a step of the published generator's moving average"] = 0.999


S = TypeVar("S", bound=Settings)


@dataclasses.dataclass(frozen=True, slots=True)
class Described:
    """A setting as it is told to people.

    Attributes:
        name: The key.
        type: What may be given.
        default: As a person would type it.
        meaning: What it sets.
    """

    name: str
    type: str
    default: str
    meaning: str


def describe(kind: type[Settings]) -> list[Described]:
    """Returns a recipe's settings: those of its own class first, then what it derives from."""
    hints = get_type_hints(kind)
    defaults = kind().as_text()
    names = [name for base in kind.__mro__ for name in inspect.get_annotations(base)]
    return [
        Described(name, _wanted(hints[name]), defaults[name], _meaning(kind, name))
        for name in dict.fromkeys(names)
    ]


def _meaning(kind: type[Settings], name: str) -> str:
    """Returns the text that a setting's type carries in the nearest class that gives one."""
    for base in kind.__mro__:
        hint = get_type_hints(base, include_extras=True).get(name)
        if get_origin(hint) is Annotated:
            _, meaning = get_args(hint)
            return str(meaning)
    return ""


def check_knobs(kind: type[Settings]) -> None:
    """Refuses a class of settings of which some cannot be given as key=value.

    Raises:
        SettingError: One is no field, has no default, or is of another type than `Widths`, a whole
            number, a number, a text, or one of some texts.
    """
    fields = {field.name: field for field in dataclasses.fields(kind)}
    for name, hint in get_type_hints(kind).items():
        if name not in fields:
            raise SettingError(
                f"the setting {name} is no field of {kind.__name__}; put "
                "@dataclass(frozen=True, kw_only=True) before the class"
            )
        if fields[name].default is dataclasses.MISSING:
            raise SettingError(f"the setting {name} has no default; give it one")
        texts = get_origin(hint) is Literal and all(isinstance(x, str) for x in get_args(hint))
        if not texts and hint not in _KINDS:
            raise SettingError(
                f"the setting {name} is of the type {getattr(hint, '__name__', hint)}; settings "
                "are int, float, str, Widths, or a Literal of texts, such as Literal['on', 'off']"
            )


def parse_settings(kind: type[S], pairs: Iterable[str]) -> S:
    """Returns settings with the defaults replaced by `key=value` texts, the last one winning.

    Raises:
        UnknownNameError: A key that the recipe does not have.
        SettingError: A text without "=", or a value of the wrong type or range.
    """
    hints = get_type_hints(kind)
    given: dict[str, Any] = {}
    for pair in pairs:
        key, separator, text = pair.partition("=")
        if not separator:
            raise SettingError(_no_setting(pair, hints))
        if key not in hints:
            raise UnknownNameError("setting", key, hints)
        given[key] = _convert(key, text, hints[key])
    return kind(**given)


def _no_setting(text: str, known: Iterable[str]) -> str:
    """Returns what to say of an argument that is no key=value."""
    name = text.lstrip("-").replace("-", "_")
    if not text.startswith("-"):
        return f"{text!r} is no setting; write key=value, such as epochs=3"
    if name in known:
        return f"{text!r} is no option, but a setting; write {name}=VALUE"
    return f"there is no option {text!r}; settings are given as key=value, such as epochs=3"


def _convert(key: str, text: str, hint: Any) -> Any:
    if get_origin(hint) is Literal:
        if text not in get_args(hint):
            raise SettingError(f"{key}={text}: give {_wanted(hint)}")
        return text
    try:
        if hint == Widths:
            return tuple(int(width) for width in text.split("-")) if text else ()
        return hint(text)
    except ValueError:
        raise SettingError(f"{key}={text}: give {_wanted(hint)}") from None


def _wanted(hint: Any) -> str:
    """Returns what a setting of a type takes, such as "a whole number"."""
    if get_origin(hint) is Literal:
        return f"one of {', '.join(get_args(hint))}"
    return _KINDS[hint]


def _text(value: Any) -> str:
    return "-".join(map(str, value)) if isinstance(value, tuple) else str(value)


def fingerprint(recipe: str, settings: Settings, data: str, versions: dict[str, str]) -> str:
    """Returns 12 hexadecimal digits that name a run: equal only where its result would be too.

    Args:
        recipe: The recipe's name.
        settings: All of its settings.
        data: The digest of what it learns from.
        versions: The software it runs on, since other arithmetic gives other weights. So do other
            threads, which add up in another order: how many torch has is counted, too.
    """
    import torch

    facts = [recipe, settings.as_text(), data, versions, torch.get_num_threads()]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:12]
