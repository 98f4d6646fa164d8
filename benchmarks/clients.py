"""What the SDK costs a call beside the bare stub, and what AsyncClient and predict_many do."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import grpc
import numpy as np
import tritonclient.grpc
import tritonclient.grpc.aio

from benchmarks import graphs
from benchmarks.plan import Plan
from benchmarks.report import Table, ratio
from benchmarks.serving import serve
from forwardpass.client import AsyncClient, Client, Prediction
from forwardpass.v1.inference_service_pb2 import PredictRequest
from forwardpass.v1.inference_service_pb2_grpc import InferenceServiceStub
from forwardpass.v1.model_service_pb2 import ModelReference
from forwardpass.wire import Array, from_tensor, to_tensor

_CALLS = 1_500
_IN_FLIGHT = 64
_ROWS = 20_000


@dataclass
class _Way:
    """One way to call.

    Attributes:
        name: What it is called.
        figures: Of each round.
    """

    name: str
    figures: list[float] = field(default_factory=list)


def measure(plan: Plan) -> list[Table]:
    """Measures all ways in turn, on a server of one core; callers have another."""
    graphs.write(plan.scratch, graphs.MLP, graphs.mlp())
    with serve(plan.scratch) as server:
        tables = [
            _overhead(server.address, plan.rounds),
            asyncio.run(_rates(server.address, plan.rounds)),
        ]
        server.check_handled()
    return tables


def _overhead(address: str, rounds: int) -> Table:
    x = _row()
    with Client(address) as client, grpc.insecure_channel(address) as channel:
        stub = InferenceServiceStub(channel)
        (output,) = client.predict(graphs.MLP, {"x": x}).outputs

        def bare() -> Array:
            request = PredictRequest(
                model=ModelReference(name=graphs.MLP), inputs={"x": to_tensor(x)}
            )
            return from_tensor(stub.Predict(request, timeout=30).outputs[output])

        def sdk() -> Array:
            return client.predict(graphs.MLP, {"x": x}).outputs[output]

        np.testing.assert_array_equal(bare(), sdk())
        ways = [(_Way("the bare stub"), bare), (_Way("Client.predict"), sdk)]
        for number in range(rounds):
            for way, call in ways[:: -1 if number % 2 else 1]:
                way.figures.append(_processor_time(call))
    (stub_way, _), (sdk_way, _) = ways
    more = [ours - theirs for ours, theirs in zip(sdk_way.figures, stub_way.figures, strict=True)]
    rows = [[way.name, f"{median(way.figures):.0f} µs"] for way, _ in ways]
    rows.append(["more", f"{median(more):.0f} µs"])
    how = (
        "Processor time of the caller for a call of one row, threads of gRPC's included, one in "
        f"flight: numpy in, numpy out. Median of {rounds} interleaved rounds."
    )
    return Table("What the SDK costs", how, ["way", "a call"], rows)


def _processor_time(call: Callable[[], object]) -> float:
    """Returns what a call takes, in microseconds."""
    began = time.process_time()
    for _ in range(_CALLS):
        call()
    return (time.process_time() - began) / _CALLS * 1e6


async def _rates(address: str, rounds: int) -> Table:
    x = _row()
    triton = tritonclient.grpc.aio.InferenceServerClient(address)
    async with AsyncClient(address) as client, triton:
        given = tritonclient.grpc.InferInput("x", x.shape, "FP32")
        given.set_data_from_numpy(x)
        (name,) = (await client.predict(graphs.MLP, {"x": x})).outputs
        right = (await triton.infer(graphs.MLP, [given])).as_numpy(name)

        async def ask_triton() -> None:
            # As the SDK does, which makes a request for each call.
            asked = tritonclient.grpc.InferInput("x", x.shape, "FP32")
            asked.set_data_from_numpy(x)
            answer = await triton.infer(graphs.MLP, [asked])
            _check(answer.as_numpy(name), right)

        async def ask() -> None:
            answer = await client.predict(graphs.MLP, {"x": x})
            _check(answer.outputs[name], right)

        async def many() -> float:
            began, count = time.perf_counter(), 0
            rows = (x[0] for _ in range(_ROWS))
            async for answer in client.predict_many(graphs.MLP, rows):
                assert isinstance(answer, Prediction), answer
                _check(answer.outputs[name], right)
                count += 1
            return count / (time.perf_counter() - began)

        ways: list[tuple[_Way, Callable[[], Awaitable[float]]]] = [
            (_Way("tritonclient.grpc.aio"), lambda: _in_flight(ask_triton)),
            (_Way("AsyncClient.predict"), lambda: _in_flight(ask)),
            (_Way("AsyncClient.predict_many"), many),
        ]
        for number in range(rounds):
            for way, run in ways[:: -1 if number % 2 else 1]:
                way.figures.append(await run())
    theirs, ours, _ = (way for way, _ in ways)
    rows = [
        [
            way.name,
            f"{median(way.figures):,.0f}",
            ratio(way.figures, theirs.figures),
            ratio(way.figures, ours.figures),
        ]
        for way, _ in ways
    ]
    how = (
        f"Rows per second of one process with asyncio: calls of one row, {_IN_FLIGHT} in flight, "
        "and `predict_many`, which gathers rows and sends them over a stream. Server on one core, "
        f"caller on another; every answer is looked at. Median of {rounds} interleaved rounds."
    )
    columns = ["way", "rows/s", "÷ tritonclient", "÷ AsyncClient.predict"]
    return Table("Clients with asyncio", how, columns, rows)


async def _in_flight(ask: Callable[[], Awaitable[None]]) -> float:
    """Returns how many calls are answered in a second, with some always in flight."""
    left = iter(range(2 * _CALLS))

    async def work() -> None:
        for _ in left:
            await ask()

    began = time.perf_counter()
    await asyncio.gather(*(work() for _ in range(_IN_FLIGHT)))
    return 2 * _CALLS / (time.perf_counter() - began)


def _row() -> Array:
    return np.random.default_rng(0).random((1, graphs.WIDTHS[0]), np.float32)


def _check(answer: Any, right: Any) -> None:
    # Rows of other batches differ in their last bits.
    if answer.shape != right.shape or abs(answer - right).max() > 1e-4:
        raise SystemExit(f"a wrong answer: {answer}, expected {right}")
