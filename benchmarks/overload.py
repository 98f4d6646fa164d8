"""Ten times as many calls as a slow model answers: how many it still does, how soon it refuses."""

import threading
import time
from collections import Counter
from dataclasses import dataclass
from statistics import median
from typing import Any

import grpc
import numpy as np
from grpc_health.v1 import health_pb2, health_pb2_grpc

from benchmarks import graphs
from benchmarks.calls import PREDICT, connect, one_target
from benchmarks.load import closed_loop
from benchmarks.plan import Plan
from benchmarks.report import Table
from benchmarks.serving import CORES, SERVER_CORES, Serving, serve

FACTOR = 10
SECONDS = 10.0
# What an operator would choose: callers wait a second, so the queue holds a third of that.
DEADLINE = 1.0
MAX_QUEUED = 16
_CONNECTIONS = 8
_PEAK_SECONDS, _PEAK_IN_FLIGHT = 5.0, 4
_PROBES = 20
_OK, _REFUSED = grpc.StatusCode.OK, grpc.StatusCode.RESOURCE_EXHAUSTED


@dataclass(frozen=True)
class Ended:
    """How a call ended.

    Attributes:
        code: Its status.
        at: When, by `time.perf_counter`.
        milliseconds: How long it took.
    """

    code: grpc.StatusCode
    at: float
    milliseconds: float


@dataclass(frozen=True)
class Round:
    """One overload.

    Attributes:
        peak: Answers per second without overload.
        goodput: Answers per second in it.
        ended: Every call of it.
        probes: How long each probe took, in milliseconds, that was answered as it should.
    """

    peak: float
    goodput: float
    ended: list[Ended]
    probes: dict[str, list[float]]


def measure(plan: Plan) -> list[Table]:
    """Measures the peak and the overload in turn, with calls on the model's core and beside it."""
    graph, run_seconds = graphs.slow()
    graphs.write(plan.scratch, graphs.SLOW, graph)
    measured = []
    for cores in (SERVER_CORES, CORES):
        # One thread runs the model, whichever cores there are: another is left for the calls.
        flags = ("--max-queued", str(MAX_QUEUED), "--threads", "1")
        with serve(plan.scratch, *flags, cores=cores) as serving:
            target = one_target(serving.address, PREDICT, graphs.SLOW, np.ones((1, 1), np.float32))
            rounds = []
            for seed in range(max(1, plan.rounds // 3)):
                calls = round(_PEAK_SECONDS / run_seconds)
                peak = closed_loop(target, _PEAK_IN_FLIGHT, calls).rate
                rounds.append(_overload(serving, peak, seed))
            measured.append(rounds)
    return [_table(measured, run_seconds)]


def _overload(serving: Serving, peak: float, seed: int) -> Round:
    probes: dict[str, list[float]] = {}
    prober = threading.Thread(target=lambda: probes.update(_probe(serving)))
    prober.start()
    begun = time.perf_counter()
    ended = _press(serving.address, FACTOR * peak, seed)
    prober.join()
    good = sum(one.code is _OK and one.at - begun <= SECONDS for one in ended)
    return Round(peak, good / SECONDS, ended, probes)


def _press(address: str, rate: float, seed: int) -> list[Ended]:
    """Sends calls at random moments from several connections; each asks something of its own.

    Raises:
        SystemExit: An answer is wrong.
    """
    moments = np.sort(np.random.default_rng(seed).uniform(0, SECONDS, round(rate * SECONDS)))
    channels = [connect(address) for _ in range(_CONNECTIONS)]
    ways: list[Any] = [channel.unary_unary(PREDICT.path) for channel in channels]
    ended: list[Ended] = []
    waiting = threading.Semaphore(0)

    def end(number: int, sent: float, call: Any) -> None:
        now = time.perf_counter()
        code = call.code()
        if code is _OK and PREDICT.decode(call.result()).item() != number:
            code = grpc.StatusCode.DATA_LOSS
        ended.append(Ended(code, now, 1e3 * (now - sent)))
        waiting.release()

    begun = time.perf_counter()
    for number, moment in enumerate(moments):
        time.sleep(max(0.0, begun + moment - time.perf_counter()))
        message = PREDICT.encode(graphs.SLOW, np.full((1, 1), number, np.float32))
        sent = time.perf_counter()
        call = ways[number % _CONNECTIONS].future(message, timeout=DEADLINE)
        call.add_done_callback(lambda call, n=number, s=sent: end(n, s, call))
    for _ in moments:
        waiting.acquire()
    for channel in channels:
        channel.close()
    if any(one.code is grpc.StatusCode.DATA_LOSS for one in ended):
        raise SystemExit(f"{address} answers wrongly under overload")
    return ended


def _probe(serving: Serving) -> dict[str, list[float]]:
    """Asks whether the server is well, now and then."""
    taken: dict[str, list[float]] = {"Check": [], "/readyz": []}
    with connect(serving.address) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        for _ in range(_PROBES):
            time.sleep(SECONDS / (_PROBES + 1))
            begun = time.perf_counter()
            try:
                answer = stub.Check(health_pb2.HealthCheckRequest(), timeout=DEADLINE)
                if answer.status == health_pb2.HealthCheckResponse.SERVING:
                    taken["Check"].append(1e3 * (time.perf_counter() - begun))
            except grpc.RpcError:
                pass
            begun = time.perf_counter()
            try:
                serving.get("/readyz")
                taken["/readyz"].append(1e3 * (time.perf_counter() - begun))
            except OSError:
                pass
    return taken


def _table(measured: list[list[Round]], run_seconds: float) -> Table:
    figures = [_figures(rounds) for rounds in measured]
    rows = [[cells[0][0], *(figure for _, figure in cells)] for cells in zip(*figures, strict=True)]
    how = (
        f"A model that takes {1e3 * run_seconds:.1f} ms a run, one call a run, {FACTOR} times its "
        f"peak for {SECONDS:.0f} s from {_CONNECTIONS} connections; deadline {DEADLINE:.0f} s, "
        f"--max-queued {MAX_QUEUED}, one thread for the model. Callers on the last core, which the "
        f"second server shares with them; {len(measured[0])} rounds each."
    )
    return Table("Overload", how, ["what", "server on one core", "on all cores"], rows)


def _figures(rounds: list[Round]) -> list[tuple[str, str]]:
    """Returns each figure of a server with its name."""
    ended = [one for each in rounds for one in each.ended]
    counts = Counter(one.code.name for one in ended)
    refusals = [one.milliseconds for one in ended if one.code is _REFUSED]
    p50, p99 = np.percentile(refusals, [50, 99]) if refusals else (np.nan, np.nan)
    figures = [
        ("peak without overload", f"{median(one.peak for one in rounds):.1f}/s"),
        ("answered under overload", f"{median(one.goodput for one in rounds):.1f}/s"),
        ("of the peak", ", ".join(f"{one.goodput / one.peak:.2f}" for one in rounds)),
        ("calls by status", ", ".join(f"{code} {n:,}" for code, n in sorted(counts.items()))),
        ("time to a refusal", f"p50 {p50:.2f} ms, p99 {p99:.2f} ms"),
    ]
    for name in ("Check", "/readyz"):
        probes = [ms for one in rounds for ms in one.probes[name]]
        most = max(probes, default=np.nan)
        told = f"{len(probes)} of {_PROBES * len(rounds)}, at most {most:.1f} ms"
        figures.append((f"{name} answered meanwhile", told))
    return figures
