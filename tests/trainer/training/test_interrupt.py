"""Ctrl-C ends a run, whatever it interrupts."""

import io
import signal

import pytest
from rich.console import Console

from forwardpass.trainer.training.interrupt import check, remembered
from forwardpass.trainer.training.progress import Reporter


class Interrupted:
    """Gets a Ctrl-C where Python drops what is raised."""

    def __del__(self) -> None:
        signal.raise_signal(signal.SIGINT)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_ctrl_c_that_a_finaliser_has_got_ends_the_run_at_its_next_step() -> None:
    reporter = Reporter(Console(file=io.StringIO()))
    with remembered(), reporter.epochs(2, 3, 0) as bar:
        bar.step(0, 1.0)
        Interrupted()
        with pytest.raises(KeyboardInterrupt):
            bar.step(0, 1.0)
    check()


def test_outside_of_a_run_ctrl_c_is_what_it_was() -> None:
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), remembered():
        signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before
    check()
