"""One run's folder: RUNS/<recipe>/<fingerprint>/, its checkpoints and its pictures.

Where several processes share a run, the first alone writes there.

A checkpoint is written beside the old one, synced, and renamed over it: whoever looks sees the old
or the new, whole. Once the model is published its checkpoints are removed; a run that did not come
so far is found by the same settings and goes on.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lightning_fabric import Fabric

from forwardpass.trainer.errors import RunError, SettingError
from forwardpass.trainer.training.progress import Reporter

# What each of several processes is told beside its number.
_WITH_A_NUMBER = ("WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


class Run:
    """What a recipe trains in; made by `open_run`.

    Attributes:
        folder: Holds the checkpoints, pictures and tables.
        reporter: Where progress is told.
    """

    def __init__(self, folder: Path, reporter: Reporter) -> None:
        self.folder = folder
        self.reporter = reporter

    def save(self, fabric: Fabric, name: str, state: dict[str, Any]) -> None:
        """Replaces the checkpoint of that name; the old one stays if this fails.

        Args:
            fabric: Turns modules and optimizers into their states, in every process of the run.
            name: One of the run's loops, such as "fit".
            state: Modules, optimizers, tensors and plain values by name.

        Raises:
            RunError: It could not be written, for one because the disk is full.
        """
        path = self._checkpoint(name)
        draft = path.with_suffix(".tmp")
        try:
            fabric.save(draft, state)
            if not fabric.is_global_zero:
                return
            with draft.open("rb") as file:
                os.fsync(file.fileno())
            os.replace(draft, path)  # noqa: PTH105 - paired with os.fsync
            sync_folder(self.folder)
        except OSError as error:
            draft.unlink(missing_ok=True)
            raise _unwritten(path, error) from error

    def load(self, fabric: Fabric, name: str, state: dict[str, Any]) -> bool:
        """Restores `state` in place from the checkpoint; False where there is none.

        Raises:
            RunError: The checkpoint is damaged or does not fit the model.
        """
        path = self._checkpoint(name)
        if not path.exists():
            return False
        try:
            fabric.load(path, state, weights_only=True)
        except Exception as error:
            raise RunError(
                f"the checkpoint {path} does not fit the recipe: {error}\n"
                f"It was written by other code, or damaged. Delete {self.folder} to start afresh."
            ) from error
        return True

    def remove_checkpoints(self) -> None:
        """Removes what a run would go on from, once there is nothing left to do."""
        for path in self.folder.glob("*.checkpoint"):
            path.unlink()

    def keep_file(self, name: str, content: bytes) -> None:
        """Writes what a person may look at, such as a picture, over the last file of that name.

        Raises:
            RunError: It could not be written.
        """
        if not is_first_process():
            return
        path = self.folder / name
        draft = path.with_suffix(".tmp")
        try:
            draft.write_bytes(content)
            draft.replace(path)
        except OSError as error:
            draft.unlink(missing_ok=True)
            raise _unwritten(path, error) from error

    def _checkpoint(self, name: str) -> Path:
        return self.folder / f"{name}.checkpoint"


def _unwritten(path: Path, error: OSError) -> RunError:
    return RunError(
        f"{path} could not be written: {error.strerror or error}. Once the cause is mended, run "
        "the same command: it goes on from the last checkpoint."
    )


def is_first_process() -> bool:
    """Whether this process is the first, or the only one, of those that share a run.

    torchrun tells each its number before it starts, and so does Fabric those that it starts itself.

    Raises:
        SettingError: Something else has told it a number, and not what goes with it.
    """
    numbers = [name for name in ("RANK", "LOCAL_RANK") if name in os.environ]
    missing = [name for name in _WITH_A_NUMBER if name not in os.environ]
    if numbers and missing:
        raise SettingError(
            f"{numbers[0]} is set, as in one of several processes, but {missing[0]} is not; start "
            f"them with torchrun, or unset {numbers[0]} to train with one process"
        )
    return int(os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0"))) == 0


@contextmanager
def open_run(folder: Path, reporter: Reporter) -> Iterator[Run]:
    """Holds a run's folder, so that no other process trains there.

    Args:
        folder: Made where it is not there yet.
        reporter: Where progress is told.

    Raises:
        RunError: Another run's process holds it, or it cannot be written.
    """
    if not is_first_process():  # the first holds it for all
        yield Run(folder, reporter)
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        opened = (folder / "lock").open("w")
    except OSError as error:
        raise RunError(
            f"the run's folder {folder} cannot be written: {error.strerror or error}. Give another "
            "place for runs, by --runs."
        ) from error
    with opened as lock:
        try:
            # The system lets go of it however this process ends.
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunError(
                f"another process is training in {folder}; wait for it, or change a setting"
            ) from None
        yield Run(folder, reporter)


def sync_folder(folder: Path) -> None:
    """Puts the folder's entries, not its files' contents, on disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
