"""What can go wrong, as a tree; each message says what was wrong, what was expected, what to do.

TrainerError
├── UnknownNameError    a recipe, key or data set that does not exist
├── RecipeError         a file or module that is not a recipe, or not one that may be run
├── RecipeFailedError   a recipe from outside that raised an error of another kind
├── SettingError        a setting's value that cannot be used
├── DataError           data that cannot be had, or is not what it should be
├── RunError            a run folder that is in use, or that other code wrote
├── DivergedError       a loss that is no longer a number
├── ParityError         ONNX Runtime answers otherwise than torch
├── QuantizeError       a version that cannot be made int8, or loses too much by it
├── ReportError         a version without a page to show
└── PublishError        the artefact could not be written
"""

import difflib
from collections.abc import Iterable, Sequence


class TrainerError(Exception):
    """Anything that ends a command with a message instead of a result."""

    exit_code = 1


class UnknownNameError(TrainerError):
    """A name that was not found; the message has all that begin so, or else the nearest one, and
    all that exist.
    """

    exit_code = 2

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        names = sorted(known)
        meant = [known for known in names if name and known.startswith(name)]
        meant = meant or difflib.get_close_matches(name, names, n=1, cutoff=0.4)
        hint = f"; did you mean {_either(meant)}?" if meant else ";"
        super().__init__(f"there is no {kind} {name!r}{hint} There are: {', '.join(names)}")


def _either(names: Sequence[str]) -> str:
    *others, last = map(repr, names)
    return f"{', '.join(others)} or {last}" if others else last


class RecipeError(TrainerError):
    """A file or module that is not there, not a recipe, or has the name of another one."""

    exit_code = 2


class RecipeFailedError(TrainerError):
    """An error that a recipe from outside raised; the message has its traceback."""


class SettingError(TrainerError):
    """A setting's value that is of the wrong type or out of range."""

    exit_code = 2


class DataError(TrainerError):
    """Data that is missing, altered, or cannot be fetched."""


class RunError(TrainerError):
    """A run folder that another process holds, or whose checkpoint does not fit."""


class DivergedError(TrainerError):
    """Training reached a loss that is not finite."""


class ParityError(TrainerError):
    """The exported graph's answers differ from torch's by more than the tolerance."""


class QuantizeError(TrainerError):
    """A version that has no int8 form, or one that loses more than was allowed."""


class ReportError(TrainerError):
    """There is no version to show, or it has no report."""


class PublishError(TrainerError):
    """An artefact that could not be written; nothing of it is left."""
