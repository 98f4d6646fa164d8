"""predict_many and embed_many: any number of rows, and for each its answer or its error."""

import itertools
import time
import tracemalloc
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from conftest import StartServer
from looking_models import looks
from onnx import TensorProto
from tiny_models import CLASSIFIER_WEIGHTS, EMBEDDER_WEIGHTS, LABELS, Publisher, echo

from forwardpass.client import (
    Cancelled,
    Client,
    Embeddings,
    ForwardpassError,
    InvalidInput,
    MessageTooLarge,
    ModelNotFound,
    Prediction,
    ServerError,
    Signature,
    TensorSpec,
    Unavailable,
)
from forwardpass.client.inputs import Image
from forwardpass.client.operations import Operations
from forwardpass.client.settings import Settings
from forwardpass.client.steps import END, Open, Take
from forwardpass.pixels import encode_png
from forwardpass.wire import Array

from .scripted import Connect

BOTH_CLIENTS = True
ROWS = np.random.default_rng(5).normal(size=(1000, 4)).astype(np.float32)


@pytest.fixture
def fixed(repository: Publisher, start_server: StartServer, connect: Connect) -> Client:
    """Calls a model whose input has no axis of rows."""
    repository("fixed", echo(TensorProto.FLOAT, [3]))
    return connect(start_server().address)


def kinds(answers: list[Any]) -> list[type]:
    return [type(answer) for answer in answers]


def vectors_of(answers: Iterable[Embeddings | ForwardpassError]) -> Array:
    return np.concatenate([cast("Embeddings", answer).vectors for answer in answers])


def outputs_of(answer: Prediction | ForwardpassError) -> Mapping[str, Array]:
    return cast("Prediction", answer).outputs


def test_each_row_has_its_vector_in_order(client: Client) -> None:
    answers = list(client.embed_many("features", iter(ROWS)))
    assert {vectors_of([answer]).shape for answer in answers} == {(1, 3)}
    np.testing.assert_allclose(vectors_of(answers), ROWS @ EMBEDDER_WEIGHTS, rtol=1e-5)
    assert list(client.embed_many("features", [])) == []


def test_rows_may_come_by_input_name_as_lists_and_asynchronously(
    client: Client, form: type[Client]
) -> None:
    async def rows() -> AsyncIterator[dict[str, list[float]]]:
        for row in ROWS[:3]:
            yield {"features": row.tolist()}

    given: Any = rows() if form is not Client else [{"features": r.tolist()} for r in ROWS[:3]]
    vectors = vectors_of(client.embed_many("features", given))
    np.testing.assert_allclose(vectors, ROWS[:3] @ EMBEDDER_WEIGHTS, rtol=1e-5)


def test_a_blocking_client_takes_nothing_asynchronous(client: Client, form: type[Client]) -> None:
    async def rows() -> AsyncIterator[list[float]]:
        yield [0.0] * 4

    if form is Client:
        with pytest.raises(InvalidInput, match="AsyncClient"):
            next(client.embed_many("features", rows()))


def test_predictions_are_of_a_row_each(client: Client) -> None:
    pixels = np.random.default_rng(4).integers(0, 256, (100, 4, 4, 1), np.uint8)
    one_by_one = [client.predict("shapes", images=image, top_k=2) for image in pixels[:5]]
    answers = list(client.predict_many("shapes", images=list(pixels), top_k=2))
    assert kinds(answers) == [Prediction] * 100
    for answer, right in zip(answers, one_by_one, strict=False):
        assert isinstance(answer, Prediction)
        assert list(answer.outputs) == list(right.outputs)
        for name, array in right.outputs.items():
            np.testing.assert_allclose(answer.outputs[name], array, rtol=1e-5)
        assert [score.label for score in answer.classes[0]] == [s.label for s in right.classes[0]]
    assert all(len(cast("Prediction", answer).classes) == 1 for answer in answers)
    assert CLASSIFIER_WEIGHTS.shape[-1] == len(LABELS)


def test_a_row_that_is_wrong_has_its_own_error_and_the_others_their_answers(
    client: Client, tmp_path: Path
) -> None:
    good = encode_png(np.full((4, 4, 1), 7, np.uint8))
    pictures: list[Image] = [good] * 150
    pictures[3] = b"no picture"
    pictures[70] = tmp_path / "missing.png"
    pictures[149] = good[:30]
    answers = list(client.predict_many("shapes", images=pictures))
    wrong = {row for row, answer in enumerate(answers) if isinstance(answer, ForwardpassError)}
    assert (len(answers), wrong) == (150, {3, 70, 149})
    assert all(isinstance(answers[row], InvalidInput) for row in wrong)
    assert "missing.png" in str(answers[70])
    assert "neither" in str(answers[3])


def test_rows_of_other_shapes_are_requests_of_their_own(client: Client) -> None:
    rows = [ROWS[0], ROWS[1], ROWS[0][:3], ROWS[2]]
    answers = list(client.embed_many("features", rows))
    assert kinds(answers) == [Embeddings, Embeddings, InvalidInput, Embeddings]


def test_requests_of_a_model_that_is_not_batched_are_whole(fixed: Client) -> None:
    given = np.random.default_rng(7).normal(size=(20, 3)).astype(np.float32)
    answers = list(fixed.predict_many("fixed", given))
    for answer, row in zip(answers, given, strict=True):
        np.testing.assert_array_equal(outputs_of(answer)["y"], row)
    with pytest.raises(InvalidInput, match="not batched"):
        fixed.predict("fixed", given[0], split=True)


def test_exactly_one_form_of_rows_is_given(client: Client) -> None:
    wrong: list[dict[str, Any]] = [{}, {"inputs": [], "images": []}, {"texts": [], "images": []}]
    for given in wrong:
        with pytest.raises(InvalidInput, match="one of inputs, images and texts"):
            list(client.predict_many("features", **given))


def test_a_model_that_is_not_there_is_told_before_a_row_is_taken(client: Client) -> None:
    def rows() -> Iterator[Any]:
        raise AssertionError("taken")
        yield

    with pytest.raises(ModelNotFound, match="nothing"):
        list(client.predict_many("nothing", rows()))


def test_what_the_caller_s_own_rows_raise_is_raised(client: Client) -> None:
    def rows() -> Iterator[Any]:
        yield ROWS[0]
        raise ZeroDivisionError("a caller's own")

    with pytest.raises(ZeroDivisionError, match="a caller's own"):
        list(client.embed_many("features", rows()))


def test_memory_is_bounded_and_whoever_has_enough_ends_it(client: Client) -> None:
    taken = itertools.count()

    def endless() -> Iterator[Any]:
        for _ in taken:
            yield np.ones(4, np.float32)

    answers = client.embed_many("features", endless())
    for _ in range(2000):
        next(answers)
    tracemalloc.start()
    for _ in range(20_000):
        next(answers)
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    answers.close()  # type: ignore[attr-defined]  # a generator
    # A window of requests is ahead of the answers.
    assert next(taken) <= 22_000 + 2 * 8 * 64
    assert held < 1 << 20


def test_a_server_that_stops_is_gone_on_without_and_its_rows_are_told(
    start_server: StartServer, repository: Publisher, connect: Connect, transport: str
) -> None:
    repository("floats", echo(TensorProto.FLOAT, ["n"]))
    first, second = start_server(), start_server()
    client = connect([first.address, second.address], timeout=20)
    rows = np.arange(4000, dtype=np.float32)
    answers = client.predict_many("floats", rows)
    got = [next(answers) for _ in range(100)]
    first.server.stop()
    got += answers
    assert len(got) == 4000
    for number, answer in enumerate(got):
        if isinstance(answer, Prediction):
            assert answer.outputs["y"].tolist() == [number]
        else:
            # Those that the server had.
            assert isinstance(answer, Unavailable)
    assert sum(isinstance(answer, Prediction) for answer in got) >= 4000 - 8


def test_streams_take_turns_so_that_each_request_has_its_time(client: Client) -> None:
    """A stream has twice the timeout: what goes on for longer needs several."""
    over = time.monotonic() + 3

    def rows() -> Iterator[Any]:
        while time.monotonic() < over:
            yield ROWS[0]

    answers = list(client.embed_many("features", rows(), timeout=1))
    assert set(kinds(answers)) == {Embeddings}


def test_a_server_that_closes_every_stream_without_a_word_is_given_up() -> None:
    """No server of ours does: the steps are answered here as one would that did."""
    operations = Operations(Settings(("h:1",)))
    spec = TensorSpec("x", "float32", (-1, 4), "unspecified")
    operations._signatures["m", None] = Signature((spec,), (), True, 0, ())
    many = operations.embed_many("m", ROWS[:3])
    rows, opened = iter(ROWS[:3]), 0

    def answer_all() -> None:
        nonlocal opened
        step = next(many.flow)
        while True:
            opened += isinstance(step, Open)
            step = many.flow.send(next(rows, END) if isinstance(step, Take) else None)

    with pytest.raises(ServerError, match="4 streams were closed without an answer"):
        answer_all()
    assert opened == 4


@pytest.mark.parametrize("method", ["embed_many", "embed_stream"])
def test_a_client_that_is_closed_ends_what_goes_on(client: Client, method: str) -> None:
    row = ROWS[0] if method == "embed_many" else ROWS[:9]
    answers = getattr(client, method)("features", itertools.repeat(row))
    next(answers)
    client.close()
    with pytest.raises(Cancelled, match="closed"):
        list(answers)
    with pytest.raises(Cancelled, match="closed"):
        client.embed("features", ROWS[:9])


@pytest.fixture
def narrow(repository: Publisher, start_server: StartServer, connect: Connect) -> Client:
    """Sends messages of 100,000 bytes at most."""
    repository("looks", looks())
    return connect(start_server().address, max_message_bytes=100_000)


def test_pictures_that_are_too_large_for_a_message_are_split(narrow: Client) -> None:
    noise = np.random.default_rng(9).integers(0, 256, (40, 50, 60, 3), np.uint8)
    pictures = [encode_png(image) for image in noise]
    with pytest.raises(MessageTooLarge, match="split=True"):
        narrow.embed("looks", images=pictures)
    vectors = narrow.embed("looks", images=pictures, split=True).vectors
    one_by_one = [narrow.embed("looks", images=picture).vectors[0] for picture in pictures]
    np.testing.assert_allclose(vectors, one_by_one, rtol=1e-5)
    many = vectors_of(narrow.embed_many("looks", images=pictures))
    np.testing.assert_allclose(many, one_by_one, rtol=1e-5)


def test_a_request_that_is_too_large_is_split(client: Client) -> None:
    rows = np.random.default_rng(6).normal(size=(5000, 4)).astype(np.float32)
    right = rows @ EMBEDDER_WEIGHTS
    answer = client.embed("features", rows, split=True)
    np.testing.assert_allclose(answer.vectors, right, rtol=1e-4, atol=1e-5)
    predicted = client.predict("features", {"features": rows}, split=True)
    np.testing.assert_allclose(predicted.outputs["embedding"], right, rtol=1e-4, atol=1e-5)
    assert client.embed("features", rows[:0], split=True).vectors.shape == (0, 3)
