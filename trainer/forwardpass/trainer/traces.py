"""An error of a recipe from outside, told from the recipe's own lines on."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

from forwardpass.extras import EXTRAS
from forwardpass.trainer.errors import RecipeFailedError, TrainerError

_HOME = Path(__file__).parent


@contextmanager
def told(recipe: str) -> Iterator[None]:
    """Tells what a recipe from outside raises within, with its traceback.

    Args:
        recipe: As the person who runs it calls it.

    Raises:
        RecipeFailedError: It raised something that is not a TrainerError.
    """
    try:
        yield
    except TrainerError:
        raise  # a sentence already
    except Exception as error:
        missing = error.name or "" if isinstance(error, ModuleNotFoundError) else ""
        if missing.partition(".")[0] in EXTRAS["trainer"]:
            raise  # the command says how to install it
        raise RecipeFailedError(f"{recipe} failed:\n{_trace(error)}") from error


def _trace(error: Exception) -> str:
    """Returns the traceback without the frames before the recipe's."""
    # Only an error needs it.
    import traceback

    frames = error.__traceback__
    while frames is not None and _is_noise(frames):
        frames = frames.tb_next
    return "".join(traceback.format_exception(type(error), error, frames)).rstrip()


def _is_noise(frame: TracebackType) -> bool:
    """Returns whether it is a frame of ours, or of Python's own import of the recipe."""
    file = frame.tb_frame.f_code.co_filename
    imports = file.startswith("<frozen importlib") or file.endswith("importlib/__init__.py")
    return imports or Path(file).is_relative_to(_HOME)
