"""AsyncClient and event loops: where one runs already, as in a notebook, and one after another."""

import asyncio
import pickle
import warnings
from collections.abc import Callable

import numpy as np
import pytest
from conftest import StartServer
from tiny_models import Publisher, embedder

from forwardpass.client import AsyncClient, Cancelled, Client, TimedOut
from forwardpass.client.polarity import PolarityWarning
from forwardpass.v1 import inference_service_pb2 as pb
from forwardpass.wire import Failure, Reason

from .scripted import Refusal, StartScripted

# Come again in a minute.
LATER = Refusal.of(Failure(Reason.QUEUE_FULL, "not now"), "60000")
ROWS = np.ones((3, 4), np.float32)


def held(begun: asyncio.Event, release: asyncio.Event) -> Callable[[], pb.PredictResponse]:
    """Returns what tells a loop that a call has begun, and answers once the loop says so."""
    loop = asyncio.get_running_loop()

    def answer() -> pb.PredictResponse:
        loop.call_soon_threadsafe(begun.set)
        asyncio.run_coroutine_threadsafe(release.wait(), loop).result(60)
        return pb.PredictResponse()

    return answer


@pytest.fixture
def address(repository: Publisher, start_server: StartServer) -> str:
    repository("features", embedder())
    return start_server().address


def test_both_clients_work_where_a_loop_runs(address: str) -> None:
    async def cell() -> None:
        async with AsyncClient(address) as client:
            awaited = await client.embed("features", ROWS)
        with Client(address) as blocking:
            np.testing.assert_array_equal(blocking.embed("features", ROWS).vectors, awaited.vectors)

    asyncio.run(cell())


def test_one_client_serves_one_loop_after_another_and_pickles(address: str) -> None:
    client = AsyncClient(address)
    for one in (client, client, pickle.loads(pickle.dumps(client))):

        async def ask(client: AsyncClient = one) -> None:
            assert (await client.embed("features", ROWS)).vectors.shape == (3, 3)

        asyncio.run(ask())


def test_many_calls_go_on_at_once(address: str) -> None:
    async def ask() -> None:
        async with AsyncClient(address) as client:
            rows = np.random.default_rng(0).normal(size=(200, 1, 4)).astype(np.float32)
            answers = await asyncio.gather(*(client.embed("features", row) for row in rows))
            right = (await client.embed("features", rows[:64, 0])).vectors
            np.testing.assert_allclose(
                np.concatenate([answer.vectors for answer in answers])[:64], right, rtol=1e-5
            )

    asyncio.run(ask())


@pytest.mark.parametrize("transport", ["completion_queue", "stock"])
def test_more_calls_than_a_connection_carries_wait_for_others(
    repository: Publisher, start_server: StartServer
) -> None:
    repository("features", embedder())
    address = start_server().address

    async def ask() -> None:
        async with AsyncClient(address, timeout=60) as client:
            for _ in range(2):
                await asyncio.gather(*(client.embed("features", ROWS) for _ in range(1500)))

    asyncio.run(ask())


def test_a_call_that_waits_for_others_ends_in_time_or_by_its_task_and_others_take_its_turn(
    scripted: StartScripted,
) -> None:
    async def ask() -> None:
        begun, release = asyncio.Event(), asyncio.Event()
        server = scripted(held(begun, release))
        async with AsyncClient(server.target, timeout=60) as client:
            calls = [asyncio.ensure_future(client.predict("m")) for _ in range(128)]
            await begun.wait()
            waiting = [asyncio.ensure_future(client.predict("m")) for _ in range(2)]
            with pytest.raises(TimedOut, match=r"no turn within 0\.1 s"):
                await client.predict("m", timeout=0.1)
            waiting[0].cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting[0]
            calls[0].cancel()
            release.set()
            await asyncio.gather(*calls[1:], waiting[1])
            await client.predict("m")

    asyncio.run(ask())


def test_a_task_that_is_cancelled_is_cancelled_and_a_closed_client_says_so(
    scripted: StartScripted,
) -> None:
    """The first is asyncio's own error, as the task expects it; the second is ours."""

    async def ask() -> None:
        begun, release = asyncio.Event(), asyncio.Event()
        server = scripted(held(begun, release))
        client = AsyncClient(server.target, timeout=60)
        task = asyncio.ensure_future(client.predict("m"))
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        begun.clear()
        task = asyncio.ensure_future(client.predict("m"))
        await begun.wait()
        await client.close()
        with pytest.raises(Cancelled, match="the client was closed"):
            await task
        with pytest.raises(Cancelled, match="the client was closed"):
            await client.predict("m")
        release.set()

    asyncio.run(ask())


def test_a_client_that_is_closed_waits_for_no_other_try(scripted: StartScripted) -> None:
    async def ask() -> None:
        client = AsyncClient(scripted(LATER).target, timeout=100)
        call = asyncio.ensure_future(client.predict("m"))
        while not client._pauses:  # noqa: ASYNC110  # nothing else tells
            await asyncio.sleep(0)
        await client.close()
        with pytest.raises(Cancelled, match="the client was closed"):
            await asyncio.wait_for(call, 30)
        assert not client._pauses

    asyncio.run(ask())


def test_asyncio_s_own_timeout_ends_a_call(scripted: StartScripted) -> None:
    async def ask() -> None:
        gone = asyncio.Event()
        server = scripted(held(asyncio.Event(), gone))
        async with AsyncClient(server.target) as client:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.2):
                    await client.predict("m", timeout=60)
            with pytest.raises(TimedOut):
                await client.predict("m", timeout=0.2)
        gone.set()

    asyncio.run(ask())


def test_no_warning_is_of_the_client_s_own_making(address: str) -> None:
    """Such as of a coroutine that nobody awaited."""

    async def ask() -> None:
        async with AsyncClient(address) as client:
            async for _ in client.embed_many("features", ROWS):
                break
            await client.embed("features", ROWS)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("default", PolarityWarning)
        asyncio.run(ask(), debug=True)
