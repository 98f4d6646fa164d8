"""Many requests over one connection: in order, held back, and ended by whoever has enough."""

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator

import numpy as np
import pytest
from tiny_models import EMBEDDER_WEIGHTS

from forwardpass.client import Client, InvalidInput, ModelNotFound, TimedOut
from forwardpass.wire import Array

BOTH_CLIENTS = True
ROWS = np.random.default_rng(3).normal(size=(40, 4)).astype(np.float32)


def test_answers_come_in_order_each_with_its_space(client: Client) -> None:
    answers = list(client.embed_stream("features", iter(ROWS[:, np.newaxis]), timeout=30))
    assert len(answers) == 40
    vectors = np.concatenate([answer.vectors for answer in answers])
    np.testing.assert_allclose(vectors, ROWS @ EMBEDDER_WEIGHTS, rtol=1e-5)
    assert {answer.space_id for answer in answers} == {client.embed("features", ROWS).space_id}
    assert not list(client.embed_stream("features", []))


def test_what_it_is_given_is_cast_and_finished_as_by_embed(client: Client) -> None:
    (answer,) = client.embed_stream(
        "features", [ROWS.astype(np.float64).tolist()], normalize=True, half_precision=True
    )
    right = client.embed("features", ROWS, normalize=True, half_precision=True)
    np.testing.assert_array_equal(answer.vectors, right.vectors)


def test_a_request_that_is_refused_ends_the_stream(client: Client) -> None:
    answers = client.embed_stream("features", [ROWS, ROWS[:, :3], ROWS])
    assert next(answers).vectors.shape[0] == 40
    with pytest.raises(InvalidInput, match="features"):
        next(answers)
    assert next(answers, None) is None
    with pytest.raises(ModelNotFound, match="no model 'nothing'"):
        next(client.embed_stream("nothing", [ROWS]))


def test_what_cannot_be_sent_is_raised_where_answers_are_awaited(client: Client) -> None:
    def requests() -> Iterator[Array]:
        yield ROWS
        raise ZeroDivisionError("a caller's own")

    answers = client.embed_stream("features", requests())
    assert next(answers).vectors.shape[0] == 40
    with pytest.raises(ZeroDivisionError, match="a caller's own"):
        next(answers)


def test_whoever_has_enough_ends_it(client: Client) -> None:
    ended = threading.Event()

    def endless() -> Iterator[Array]:
        try:
            while True:
                yield ROWS
        finally:
            ended.set()

    answers = client.embed_stream("features", endless(), timeout=60)
    for _ in range(3):
        next(answers)
    answers.close()  # type: ignore[attr-defined]  # a generator
    assert ended.wait(30)
    assert client.embed("features", ROWS).vectors.shape[0] == 40


def test_all_of_it_has_so_much_time(client: Client, form: type[Client]) -> None:
    go_on = threading.Event()

    def slow() -> Iterator[Array]:
        yield ROWS
        go_on.wait(30)

    async def slow_to_await() -> AsyncIterator[Array]:
        yield ROWS
        await asyncio.to_thread(go_on.wait, 30)

    rows = slow() if form is Client else slow_to_await()
    answers = client.embed_stream("features", rows, timeout=0.5)
    assert next(answers).vectors.shape[0] == 40
    with pytest.raises(TimedOut):
        next(answers)
    go_on.set()
