"""What a person sees while a recipe runs: a bar on a terminal, a line an epoch anywhere."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


class EpochBar:
    """Counts the steps of all epochs, so that the time left is the run's; made by `Reporter`."""

    def __init__(self, bar: Progress, unit: str, epochs: int, steps: int, start: int) -> None:
        self._bar, self._unit, self._epochs = bar, unit, epochs
        self._task = bar.add_task("", total=epochs * steps, completed=start * steps, facts="")
        self._facts = ""

    def step(self, epoch: int, loss: float) -> None:
        """Counts one step; epochs count from 0."""
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
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[facts]}"),
        )
        # Where nobody watches, a bar would only leave blank lines in a log.
        with Progress(
            *columns, console=self._console, transient=True, disable=not self._console.is_terminal
        ) as bar:
            yield EpochBar(bar, unit, epochs, steps, start)
