"""Settings of the recipes that learn from files of one's own."""

import math
import re
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from forwardpass.client.jobs.walk import kind_of
from forwardpass.trainer.errors import DataError, SettingError
from forwardpass.trainer.training.settings import Settings

# Those that name files.
_FILES = ("data", "test")
# As servers read the names of folders, with a place for what is added, such as "-limited".
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")

# Of a run that is not told how many epochs to take.
_LEAST_EPOCHS, _MOST_EPOCHS = 5, 100


def epochs_of(steps: int, rows: int, batch_size: int) -> int:
    """Returns how many epochs make so many steps, 5 at least and 100 at most."""
    return min(max(_LEAST_EPOCHS, steps // math.ceil(rows / batch_size)), _MOST_EPOCHS)


@dataclass(frozen=True, kw_only=True)
class OwnData(Settings):
    """What a recipe has besides that learns from a file or a folder of one's own."""

    data: Annotated[str, "the CSV file"] = ""
    name: Annotated[str, "of the model; the recipe's where empty"] = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.name and not _NAME.fullmatch(self.name):
            raise SettingError(
                f"name={self.name}: give letters, digits, dots, dashes and underscores, no more "
                "than 100, and a letter or digit first"
            )

    def model_name(self, recipe: str) -> str:
        """Returns the name that was given, or the recipe's."""
        return self.name or recipe

    def as_text(self) -> dict[str, str]:
        """Returns each setting by name; of files the last part, as folders are nobody's concern.

        What is in a file counts among what a run depends on by its digest.
        """
        texts = super().as_text()
        return texts | {key: Path(texts[key]).name for key in _FILES if texts.get(key)}

    def needed(self, recipe: str, **examples: str) -> None:
        """Refuses settings without which there is nothing to learn from.

        Args:
            recipe: The recipe's name.
            examples: Of each such setting, what a person might give.

        Raises:
            SettingError: One is empty.
            DataError: One names a file or folder that is not there, or is neither.
        """
        missing = [key for key in examples if not getattr(self, key)]
        if missing:
            pairs = " ".join(f"{key}={value}" for key, value in examples.items())
            raise SettingError(
                f"{recipe} learns from data of yours: give {' and '.join(missing)}, such as by "
                f"forwardpass-train run {recipe} {pairs}"
            )
        for key in _FILES:
            if getattr(self, key, ""):
                _check_there(key, self.path(key))

    def path(self, key: str) -> Path:
        """Returns the file or folder that a setting, such as "data", names; ~ is as in a shell."""
        return Path(getattr(self, key)).expanduser()


def _check_there(key: str, path: Path) -> None:
    """Refuses what is neither a folder nor a regular file: a FIFO would be waited for."""
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise DataError(
            f"{key}={path}: {error.strerror or error}; give the path of a file or folder"
        ) from None
    if not stat.S_ISDIR(mode) and not stat.S_ISREG(mode):
        raise DataError(f"{key}={path} is {kind_of(mode)}; give a regular file or a folder")
