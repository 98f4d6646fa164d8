"""Whether the callers or the model are at fault: when it is tried, and what is judged."""

import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from forwardpass.server.scheduling import failure_detector
from forwardpass.server.scheduling.failure_detector import FailureDetector

from .jobs import DAY, PATIENCE, settle, watching


class Patient:
    """A model that computes or does not, and its detector.

    Attributes:
        works: Whether it computes.
        tries: Something for each time that it has been tried.
        judgements: What `failing` was, for each time that it was said to have changed.
        detector: Judges it.
    """

    def __init__(self, *, works: bool) -> None:
        self.works = works
        self.tries: queue.SimpleQueue[None] = queue.SimpleQueue()
        self.judgements: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self.detector = FailureDetector(
            self._try, lambda: self.judgements.put(self.detector.failing)
        )

    def judged(self) -> bool:
        """Returns the next judgement, once there is one."""
        return self.judgements.get(timeout=PATIENCE)

    def _try(self) -> None:
        self.tries.put(None)
        if not self.works:
            raise RuntimeError("broken")


Start = Callable[..., Patient]


@pytest.fixture
def start() -> Iterator[Start]:
    """Makes a model with its detector, whose thread is ended after the test."""
    with ExitStack() as stack:

        def start(*, works: bool) -> Patient:
            patient = Patient(works=works)
            stack.callback(settle)
            stack.callback(patient.detector.close)
            return patient

        yield start


@pytest.fixture
def never_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failure_detector, "PAUSE", DAY)


@pytest.fixture
def tried_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failure_detector, "PAUSE", 0.0)


@pytest.mark.usefixtures("tried_each_time")
def test_a_model_that_computes_is_not_at_fault_however_many_runs_fail(start: Start) -> None:
    patient = start(works=True)
    assert [patient.detector.failed() for _ in range(5)] == [False] * 5
    assert patient.tries.qsize() == 5
    assert not patient.detector.failing
    assert patient.judgements.empty()


def test_a_model_that_computes_is_tried_once_in_the_pause(start: Start) -> None:
    patient = start(works=True)
    for _ in range(1000):
        patient.detector.failed()
    # A thousand failures take far less than ten pauses.
    assert 1 <= patient.tries.qsize() < 10


@pytest.mark.usefixtures("never_tried_again")
def test_a_model_that_fails_itself_is_at_fault(start: Start) -> None:
    patient = start(works=False)
    assert patient.detector.failed()
    assert patient.judged() is True
    assert patient.detector.failing
    # The verdict stands until it has been tried again.
    assert patient.detector.failed()
    assert patient.tries.qsize() == 1
    assert len(watching()) == 1


@pytest.mark.usefixtures("tried_each_time")
def test_where_no_thread_can_be_had_the_next_failure_tries_again(start: Start) -> None:
    patient = start(works=False)
    # More than there are addresses for.
    before = threading.stack_size(2**60)
    try:
        assert patient.detector.failed()
    finally:
        threading.stack_size(before)
    assert not watching()
    patient.works = True
    assert not patient.detector.failed()
    assert not patient.detector.failing


def test_it_is_tried_until_it_computes_and_told_once(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(failure_detector, "PAUSE", 0.001)
    patient = start(works=False)
    patient.detector.failed()
    assert patient.judged() is True
    for _ in range(3):
        patient.tries.get(timeout=PATIENCE)
    assert patient.judgements.empty()
    patient.works = True
    assert patient.judged() is False
    assert not patient.detector.failing
    settle()
    assert patient.judgements.empty()


def test_a_model_without_a_known_good_input_is_never_judged() -> None:
    detector = FailureDetector(None, lambda: pytest.fail("it was judged"))
    assert [detector.failed() for _ in range(5)] == [False] * 5


@pytest.mark.usefixtures("never_tried_again")
def test_closing_ends_the_watch_and_nothing_is_judged_any_more(start: Start) -> None:
    patient = start(works=False)
    patient.detector.failed()
    assert patient.judged() is True
    patient.detector.close()
    settle()
    assert patient.judgements.empty()


def test_what_a_try_finds_after_closing_is_not_told() -> None:
    trying, go = threading.Event(), threading.Event()
    judged: list[None] = []

    def probe() -> None:
        trying.set()
        assert go.wait(PATIENCE)
        raise RuntimeError("broken")

    detector = FailureDetector(probe, lambda: judged.append(None))
    caller = threading.Thread(target=detector.failed)
    caller.start()
    assert trying.wait(PATIENCE)
    # Who fails meanwhile does not wait for it.
    assert not detector.failed()
    detector.close()
    go.set()
    caller.join(PATIENCE)
    assert not judged
    assert not detector.failing
