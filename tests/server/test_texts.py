"""Texts: written a character a step, by numbers that a seed gives, side by side with others."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import numpy as np
import pytest
from conftest import Running, StartServer
from failures import failure_of
from tiny_models import CHARACTERS, WRITER_WEIGHTS, Publisher, TinyModel, embedder, writer

from forwardpass.artefact import draw_uniforms
from forwardpass.server.native.text import MAX_CHARACTERS, MAX_LENGTH, choose
from forwardpass.server.onnx.session import Session
from forwardpass.server.rpc.execution import Execution
from forwardpass.v1 import model_card_pb2
from forwardpass.v1.inference_service_pb2 import (
    EmbedRequest,
    GenerateRequest,
    GenerateStreamRequest,
)
from forwardpass.v1.model_service_pb2 import ModelReference
from forwardpass.wire import Reason, to_tensor

WRITER = ModelReference(name="writer")
LENGTH = 60


@pytest.fixture
def running(repository: Publisher, start_server: StartServer) -> Running:
    repository("writer", writer())
    return start_server()


def wish(**fields: Any) -> GenerateRequest:
    return GenerateRequest(model=WRITER, **fields)


def expected(prompt: str, seed: int, sample: int, temperature: float = 1.0) -> str:
    """Returns what numpy writes with the same weights and the same variates."""
    weights = WRITER_WEIGHTS
    variates = draw_uniforms(seed, sample + 1, LENGTH)[sample]
    state = np.zeros(3, np.float32)
    text = ""
    for character in prompt or CHARACTERS[0]:
        state = np.tanh(
            weights["from_token"][CHARACTERS.index(character)] + state @ weights["from_state"]
        )
    for variate in variates:
        scores = np.exp((state @ weights["to_scores"]).astype(np.float64) / temperature)
        chosen = int(np.searchsorted(np.cumsum(scores / scores.sum()), variate, side="right"))
        text += CHARACTERS[chosen]
        state = np.tanh(weights["from_token"][chosen] + state @ weights["from_state"])
    return text


@pytest.mark.parametrize("prompt", ["", "ab—é", "b" * 50])
@pytest.mark.parametrize("temperature", [1.0, 0.25, 4.0])
def test_it_writes_what_numpy_does(running: Running, prompt: str, temperature: float) -> None:
    response = running.inference.Generate(
        wish(prompt=prompt, seed=7, length=LENGTH, count=3, temperature=temperature)
    )
    assert list(response.texts) == [expected(prompt, 7, i, temperature) for i in range(3)]
    assert (response.seed, response.model.name) == (7, "writer")
    assert not response.HasField("samples")
    assert not response.HasField("timing")


def test_texts_differ_by_seed_prompt_and_temperature(running: Running) -> None:
    wishes: list[dict[str, Any]] = [{}, {"seed": 8}, {"prompt": "aaa"}, {"temperature": 0.5}]
    texts = [
        running.inference.Generate(wish(**{"seed": 7, "length": LENGTH, **one})).texts[0]
        for one in wishes
    ]
    assert len(set(texts)) == 4


def test_what_is_left_out_has_the_defaults_that_the_contract_names(running: Running) -> None:
    first = running.inference.Generate(wish())
    (text,) = first.texts
    assert len(text) == 256
    again = running.inference.Generate(wish(seed=first.seed, temperature=1, count=1, prompt=""))
    assert list(again.texts) == [text]
    assert running.inference.Generate(wish()).seed != first.seed


def test_a_text_does_not_depend_on_how_many_are_asked_for_or_how_long(running: Running) -> None:
    many = running.inference.Generate(wish(seed=3, length=LENGTH, count=40)).texts
    assert len(set(many)) > 30
    few = running.inference.Generate(wish(seed=3, length=LENGTH // 2, count=3)).texts
    assert list(few) == [text[: LENGTH // 2] for text in many[:3]]


def test_the_nearer_to_zero_the_temperature_the_surer_the_likeliest_is_chosen(
    running: Running,
) -> None:
    texts = running.inference.Generate(
        wish(seed=1, count=8, temperature=1e-30, length=LENGTH)
    ).texts
    assert len(set(texts)) == 1
    assert len(set(running.inference.Generate(wish(seed=1, count=8, temperature=10)).texts)) == 8


def test_a_stream_sends_each_character_as_it_is_chosen(running: Running) -> None:
    request = wish(seed=5, count=20, length=LENGTH, prompt="ab", timing=True)
    whole = running.inference.Generate(request)
    parts = list(running.inference.GenerateStream(GenerateStreamRequest(request=request)))
    texts = [""] * 20
    for part in parts:
        assert part.part.seed == 5
        assert part.part.HasField("timing")
        for place, character in enumerate(part.part.texts, part.index):
            assert len(character) == 1
            texts[place] += character
    assert texts == list(whole.texts)
    # Two jobs a step, of 16 texts and of 4.
    assert len(parts) == 2 * LENGTH
    # The whole took as long as its steps.
    assert whole.timing.compute.ToNanoseconds() > max(
        part.part.timing.compute.ToNanoseconds() for part in parts
    )


def test_callers_at_a_time_share_runs_and_get_the_texts_they_would_alone(
    repository: Publisher, start_server: StartServer, hold_runs: "Hold"
) -> None:
    repository("writer", writer())
    running = start_server()
    alone = [running.inference.Generate(wish(seed=s, length=LENGTH)).texts[0] for s in range(12)]
    hold_runs.begin()
    with ThreadPoolExecutor(12) as pool:
        wishes = [wish(seed=seed, length=LENGTH, timing=True) for seed in range(12)]
        calls = [pool.submit(running.inference.Generate, wishes[0])]
        hold_runs.wait_for(running, waiting=0)
        calls += [pool.submit(running.inference.Generate, other) for other in wishes[1:]]
        hold_runs.wait_for(running, waiting=11)
        hold_runs.end()
        responses = [call.result() for call in calls]
    assert [response.texts[0] for response in responses] == alone
    assert max(response.timing.batch_rows for response in responses) > 6


def test_other_calls_are_answered_between_the_steps_of_a_long_text(
    repository: Publisher, start_server: StartServer
) -> None:
    repository("writer", writer())
    repository("emb", embedder())
    running = start_server()
    stream = running.inference.GenerateStream(
        GenerateStreamRequest(request=wish(length=MAX_LENGTH, count=16))
    )
    next(stream)
    rows = {"features": to_tensor(np.ones((1, 4), np.float32))}
    for _ in range(5):
        running.inference.Embed(EmbedRequest(model=ModelReference(name="emb"), inputs=rows))
        assert len(running.inference.Generate(wish(length=3)).texts[0]) == 3
    # It has not come to its end meanwhile: nobody has read what it writes.
    assert running.server._admission.calls == 1
    assert sum(1 for _ in stream) == MAX_LENGTH - 1


def test_a_text_ends_between_steps_when_its_caller_goes(
    repository: Publisher, start_server: StartServer, hold_runs: "Hold"
) -> None:
    repository("writer", writer())
    running = start_server()
    hold_runs.begin()
    call = running.inference.Generate.future(wish(length=MAX_LENGTH))
    hold_runs.wait_for(running, waiting=0)
    call.cancel()
    assert running.server._admission.wait_idle(60)
    hold_runs.end()
    assert hold_runs.runs == 1
    loaded = running.server._repository.find(WRITER)
    loaded.leases.leave()
    loaded.leases.close()


def test_a_text_ends_between_steps_at_its_deadline(
    repository: Publisher, start_server: StartServer, hold_runs: "Hold"
) -> None:
    repository("writer", writer())
    running = start_server()
    hold_runs.begin()
    with pytest.raises(grpc.RpcError) as caught:
        running.inference.Generate(wish(length=MAX_LENGTH), timeout=0.2)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    hold_runs.end()
    assert running.server._admission.wait_idle(60)
    assert hold_runs.runs == 1


def test_a_step_leaves_nothing_behind_in_its_call(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each step has a job with its states; a call of thousands holds one of them at a time."""
    held: list[int] = []
    run = Execution.run

    def counted(self: Execution, *arguments: Any, **options: Any) -> Any:
        answer = run(self, *arguments, **options)
        held.append(len(self._jobs))
        return answer

    monkeypatch.setattr(Execution, "run", counted)
    running.inference.Generate(wish(length=200))
    assert len(held) == 200
    assert max(held) == 1


def test_a_call_of_another_kind_is_told_what_a_text_generator_answers(running: Running) -> None:
    failure = failure_of(running.inference.Embed, EmbedRequest(model=WRITER))
    assert failure.message.endswith("no embedding output; it answers Predict, Generate")


INVALID = {
    "an unknown character": (
        {"prompt": "abxz"},
        "'x' at place 2 (from 0), which the model does not know; its 5 characters are '\\nabé—'",
        "prompt",
    ),
    "a long prompt": ({"prompt": "é" * 2049}, "4098 bytes, but it may have 4096", "prompt"),
    "no characters": ({"length": 0}, "a text may have 1 to 4096 characters", "length"),
    "too many characters": ({"length": 4097}, "a length of 4097", "length"),
    "too many texts of that length": (
        {"length": 4096, "count": 17},
        f"17 texts of 4096 characters are 69632, but a request may ask for {MAX_CHARACTERS}",
        "length",
    ),
    "too many texts": ({"count": 1025}, "may ask for 1 to 1024", "count"),
    "no texts": ({"count": 0}, "may ask for 1 to 1024", "count"),
    "a temperature of zero": ({"temperature": 0}, "must be above 0 and at most 10", "temperature"),
    "a temperature of NaN": ({"temperature": float("nan")}, "of nan", "temperature"),
    "too high a temperature": ({"temperature": 10.1}, "of 10.1", "temperature"),
    "an index of a class": ({"class_index": 1}, "the model generates text", "class_index"),
    "a label of a class": ({"class_label": "a"}, "the model generates text", "class_label"),
    "latents": ({"latents": to_tensor(np.ones((1, 3), np.float32))}, "generates text", "latents"),
    "pictures": ({"png": True}, "the samples are no images", "png"),
}


@pytest.mark.parametrize(("fields", "told", "field"), INVALID.values(), ids=INVALID)
def test_a_wrong_wish_is_told_what_is_wrong(
    running: Running, fields: dict[str, Any], told: str, field: str
) -> None:
    calls: list[Callable[[], Any]] = [
        lambda: running.inference.Generate(wish(**fields)),
        lambda: list(
            running.inference.GenerateStream(GenerateStreamRequest(request=wish(**fields)))
        ),
    ]
    for call in calls:
        failure = failure_of(call)
        assert failure.reason is Reason.INVALID_INPUT
        assert told in failure.message
        assert failure.field == field


def with_labels(labels: tuple[str, ...]) -> TinyModel:
    tiny = writer()
    assert tiny.card is not None
    del tiny.card.labels[:]
    tiny.card.labels.extend(labels)
    return tiny


def without_state() -> TinyModel:
    tiny = writer()
    assert tiny.card is not None
    del tiny.card.signature.states[:]
    return tiny


def without_logits() -> TinyModel:
    tiny = writer()
    assert tiny.card is not None
    tiny.card.signature.outputs[0].role = model_card_pb2.TENSOR_ROLE_VALUES
    return tiny


@pytest.mark.parametrize(
    ("tiny", "told"),
    [
        (with_labels(()), "labels are not characters"),
        (with_labels(("a", "b", "c", "d", "")), "labels are not characters"),
        (with_labels(("a", "b", "c", "d", "a")), "labels are not characters"),
        (with_labels(("a", "b", "c")), "a score for each of the 3 labels"),
        (without_state(), "input 'h' is no state"),
        (without_logits(), "no one output of logits"),
    ],
    ids=["none", "an empty one", "two alike", "too few", "no state", "no logits"],
)
def test_a_card_that_makes_no_text_generator_is_not_served(
    repository: Publisher, start_server: StartServer, tiny: TinyModel, told: str
) -> None:
    repository("writer", tiny)
    failure = failure_of(start_server().inference.Generate, wish())
    assert failure.reason is Reason.MODEL_FAILED
    assert "the token input 'token' makes no text generator" in failure.message
    assert told in failure.message


def test_a_choice_falls_where_its_variate_lies() -> None:
    logits = np.log(np.array([[0.2, 0.0, 0.3, 0.5]] * 6) + 1e-300)
    variates = np.array([0, 0.19, 0.21, 0.49, 0.51, 1 - 2**-53])
    assert choose(logits, 1.0, variates).tolist() == [0, 0, 2, 2, 3, 3]
    assert choose(logits, 1e-45, variates).tolist() == [3] * 6


class Hold:
    """Holds each run of a model while it is told to."""

    def __init__(self) -> None:
        self.runs = 0
        self._may_run = threading.Event()
        self._may_run.set()
        self._running = threading.Event()

    def run(self, run: Callable[..., Any], *arguments: Any) -> Any:
        if not self._may_run.is_set():
            self.runs += 1
            self._running.set()
            self._may_run.wait()
        return run(*arguments)

    def begin(self) -> None:
        self._may_run.clear()

    def end(self) -> None:
        self._may_run.set()

    def wait_for(self, running: Running, waiting: int) -> None:
        """Waits until a run is held, and so many jobs wait behind it."""
        assert self._running.wait(60)
        worker = running.server._repository.find(WRITER)
        worker.leases.leave()
        queue = worker.executor._queue  # type: ignore[union-attr]  # with a thread, by the fixture
        with queue._arrived:
            assert queue._arrived.wait_for(lambda: queue.waiting == waiting, 60)


@pytest.fixture
def hold_runs(no_inline_runs: None, monkeypatch: pytest.MonkeyPatch) -> Hold:
    """Before the server starts: its workers keep the method that they were made with."""
    hold, run = Hold(), Session.run
    monkeypatch.setattr(Session, "run", lambda *arguments: hold.run(run, *arguments))
    return hold
