"""How many calls a second one core answers: ours, and servers that one writes by hand."""

import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from statistics import median

import numpy as np

from benchmarks import graphs
from benchmarks.bare import answers
from benchmarks.calls import MODEL_INFER, PREDICT, Protocol, check_answers, one_target
from benchmarks.competitor import Competitor, measure_all
from benchmarks.plan import Plan
from benchmarks.report import Table, ratio
from benchmarks.serving import SERVER_CORES, Serving, serve, start

ROWS = (1, 64)
IN_FLIGHT = (1, 8, 32, 128)
_PEERS = {"grpc.aio": "grpc_aio_server", "grpc.server": "grpc_server"}
_OURS = (MODEL_INFER, PREDICT)


def measure(plan: Plan) -> list[Table]:
    """Compares the servers; their answers are checked before."""
    file = graphs.write(plan.scratch, graphs.MLP, graphs.mlp())
    with ExitStack() as stack:
        ours = stack.enter_context(serve(plan.scratch))
        peers = {
            name: stack.enter_context(_start_peer(module, file)) for name, module in _PEERS.items()
        }
        idle = {name: one.rss_megabytes() for name, one in {"ours": ours, **peers}.items()}
        _check(ours, peers, file)
        groups = {
            (rows, in_flight): list(_competitors(ours, peers, rows, in_flight))
            for rows in ROWS
            for in_flight in IN_FLIGHT
        }
        measure_all(groups.values(), plan.rounds)
        ours.check_handled()
        memory = [
            [name, f"{idle[name]:.0f} MB", f"{one.most_rss_megabytes():.0f} MB"]
            for name, one in {"ours": ours, **peers}.items()
        ]
    return [*_rate_tables(groups, plan.rounds), _memory_table(memory)]


def _start_peer(module: str, file: Path) -> Serving:
    name = f"benchmarks.peers.{module}"
    return start([sys.executable, "-m", name, graphs.MLP, str(file)], SERVER_CORES)


def _check(ours: Serving, peers: dict[str, Serving], file: Path) -> None:
    """Compares answers with those of ONNX Runtime itself."""
    random = np.random.default_rng(0)
    asked = [(ours, protocol) for protocol in _OURS]
    asked += [(peer, MODEL_INFER) for peer in peers.values()]
    for rows in ROWS:
        questions = random.random((20, rows, graphs.WIDTHS[0]), np.float32)
        right = answers(file, "x", questions, "y")
        for serving, protocol in asked:
            check_answers(serving.address, protocol, graphs.MLP, questions, right)


def _competitors(
    ours: Serving, peers: dict[str, Serving], rows: int, in_flight: int
) -> Iterator[Competitor]:
    x = np.random.default_rng(rows).random((rows, graphs.WIDTHS[0]), np.float32)

    def competitor(name: str, serving: Serving, protocol: Protocol) -> Competitor:
        return Competitor(name, one_target(serving.address, protocol, graphs.MLP, x), in_flight)

    for protocol in _OURS:
        yield competitor(protocol.name, ours, protocol)
    for name, peer in peers.items():
        yield competitor(name, peer, MODEL_INFER)


def _rate_tables(groups: dict[tuple[int, int], list[Competitor]], rounds: int) -> list[Table]:
    key = ["rows", "in flight"]
    rates, ratios = [], []
    for (rows, in_flight), group in groups.items():
        by_name = {one.name: one.rates for one in group}
        rates.append([str(rows), str(in_flight), *(f"{median(r):,.0f}" for r in by_name.values())])
        ratios.append(
            [str(rows), str(in_flight)]
            + [ratio(by_name[one.name], by_name[peer]) for one in _OURS for peer in _PEERS]
        )
    names = [one.name for one in _OURS]
    layers = "-".join(map(str, graphs.WIDTHS))
    how = (
        f"An MLP {layers}. ModelInfer and Predict are ours; `grpc.aio` and `grpc.server` are "
        "the hand-written servers of `benchmarks/peers`, without batching, checks or metrics. "
        f"Servers on one core, h2load on another; median of {rounds} interleaved rounds."
    )
    return [
        Table("Calls per second", how, [*key, *names, *_PEERS], rates),
        Table(
            "The same as ratios",
            "Median of the rounds' ratios, with its 95 % bootstrap interval.",
            [*key, *(f"{one} ÷ {peer}" for one in names for peer in _PEERS)],
            ratios,
        ),
    ]


def _memory_table(rows: list[list[str]]) -> Table:
    how = "Resident memory of these servers: once ready, and the most of the whole run."
    return Table("Memory", how, ["server", "ready", "most"], rows)
