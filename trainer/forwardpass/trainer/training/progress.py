"""What a person sees while a recipe runs: a bar on a terminal, a line an epoch anywhere."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from forwardpass.trainer.training.interrupt import check

T = TypeVar("T")


class EpochBar:
    """Counts the steps of all epochs, so that the time left is the run's; made by `Reporter`."""

    def __init__(self, bar: Progress, unit: str, epochs: int, steps: int, start: int) -> None:
        self._bar, self._unit, self._epochs = bar, unit, epochs
        self._task = bar.add_task("", total=epochs * steps, completed=start * steps, facts="")
        self._facts = ""

    def step(self, epoch: int, loss: float) -> None:
        """Counts one step; epochs count from 0.

        Raises:
            KeyboardInterrupt: Ctrl-C was pressed.
        """
        check()
        self._bar.update(
            self._task,
            advance=1,
            description=self._count(epoch),
            facts=f"loss {loss:.4g}  {self._facts}",
        )

    def epoch(self, epoch: int, measured: Mapping[str, float]) -> None:
        """Leaves a line that stays; it is printed once the epoch's checkpoint is on disk."""
        self._facts = "  ".join(f"{name} {value:.4g}" for name, value in measured.items())
        self._bar.console.print(
            f"{self._count(epoch)}  {self._facts}", highlight=False, soft_wrap=True
        )

    def _count(self, epoch: int) -> str:
        return f"{self._unit} {epoch + 1}/{self._epochs}"


class Reporter:
    """Writes to one console, standard error in the command line."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def note(self, text: str) -> None:
        """Says what is going on, in one line."""
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)

    def items(self, items: Sequence[T], text: str) -> Iterator[T]:
        """Yields the items, while a bar shows how many are done.

        Args:
            items: Such as batches.
            text: What is being done with them, in two or three words.
        """
        with self._bar(TextColumn("{task.description}")) as bar:
            yield from bar.track(items, description=text)

    @contextmanager
    def epochs(
        self, epochs: int, steps: int, start: int, unit: str = "epoch"
    ) -> Iterator[EpochBar]:
        """Shows a bar over epochs of so many steps.

        Args:
            epochs: In all.
            steps: In each.
            start: Epochs that were done before.
            unit: What an epoch is called.
        """
        columns = TextColumn("{task.description}"), TextColumn("{task.fields[facts]}")
        with self._bar(*columns) as bar:
            yield EpochBar(bar, unit, epochs, steps, start)

    def _bar(self, before: TextColumn, *after: TextColumn) -> Progress:
        counted = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        # Where nobody watches, a bar would only leave blank lines in a log.
        return Progress(
            before,
            *counted,
            *after,
            console=self._console,
            transient=True,
            disable=not self._console.is_terminal,
        )
