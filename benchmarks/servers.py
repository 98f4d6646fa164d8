"""Model servers of others that are written in Python, on the same graph with the same requests.

They are installed on request, from PyPI, where that has them: TensorFlow Serving and Triton publish
no server there (PyTriton's package has Triton's own front end, and Python behind it).
"""

import json
import shutil
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from statistics import median

import numpy as np

from benchmarks import graphs
from benchmarks.bare import answers
from benchmarks.calls import MODEL_INFER, check_answers, one_target
from benchmarks.competitor import Competitor, measure_all
from benchmarks.environments import Foreign, Unavailable, environment, free_ports, start_foreign
from benchmarks.plan import Plan
from benchmarks.report import Failed, Table, ratio
from benchmarks.serving import serve

IN_FLIGHT = (1, 8, 32)
_MLSERVER, _PYTRITON = "1.7.1", "0.7.0"
_OURS = "forwardpass"
_PEERS = Path(__file__).parent / "peers"


def measure(plan: Plan) -> list[Table | Failed]:
    """Compares those that can be installed and started here; says of the others why not."""
    file = graphs.write(plan.scratch / "models", graphs.MLP, graphs.mlp())
    random = np.random.default_rng(0)
    questions = random.random((20, 1, graphs.WIDTHS[0]), np.float32)
    right = answers(file, "x", questions, "y")
    failures = []
    with ExitStack() as stack:
        ours = stack.enter_context(serve(plan.scratch / "models"))
        addresses = {_OURS: ours.address}
        for name, start in _STARTS.items():
            try:
                addresses[name] = stack.enter_context(start(plan)).address
            except Unavailable as error:
                failures.append(Failed(name, str(error)))
        for address in addresses.values():
            check_answers(address, MODEL_INFER, graphs.MLP, questions, right)
        targets = {
            name: one_target(address, MODEL_INFER, graphs.MLP, questions[0])
            for name, address in addresses.items()
        }
        groups = [
            [Competitor(name, target, in_flight) for name, target in targets.items()]
            for in_flight in IN_FLIGHT
        ]
        measure_all(groups, plan.rounds)
        ours.check_handled()
    return [_table(groups, plan.rounds), *failures]


def _start_mlserver(plan: Plan) -> Foreign:
    programs = environment(_kept(plan), f"mlserver=={_MLSERVER}")
    folder = plan.scratch / "mlserver"
    folder.mkdir()
    shutil.copy(_PEERS / "mlserver_runtime.py", folder)
    grpc_port, http_port, metrics_port = free_ports(3)
    settings = {
        # In one process: the core is one, and every hand-over between processes takes of it.
        "parallel_workers": 0,
        "host": "127.0.0.1",
        "grpc_port": grpc_port,
        "http_port": http_port,
        "metrics_port": metrics_port,
        "debug": False,
    }
    model = {
        "name": graphs.MLP,
        "implementation": "mlserver_runtime.OnnxRuntime",
        "parameters": {"uri": str(_graph(folder))},
    }
    (folder / "settings.json").write_text(json.dumps(settings), encoding="utf-8")
    (folder / "model-settings.json").write_text(json.dumps(model), encoding="utf-8")
    command = [str(programs / "mlserver"), "start", str(folder)]
    return start_foreign(command, grpc_port, graphs.MLP, folder)


def _start_pytriton(plan: Plan) -> Foreign:
    programs = environment(_kept(plan), f"nvidia-pytriton=={_PYTRITON}")
    folder = plan.scratch / "pytriton"
    folder.mkdir()
    ports = free_ports(2)
    program = [str(programs / "python"), str(_PEERS / "pytriton_server.py")]
    arguments = [graphs.MLP, str(_graph(folder)), str(graphs.WIDTHS[0]), *map(str, ports)]
    return start_foreign([*program, *arguments], ports[0], graphs.MLP, folder)


_STARTS: dict[str, Callable[[Plan], Foreign]] = {
    f"MLServer {_MLSERVER}": _start_mlserver,
    f"PyTriton {_PYTRITON}": _start_pytriton,
}


def _kept(plan: Plan) -> Path:
    return plan.models.absolute().parent / "servers"


def _graph(folder: Path) -> Path:
    path = folder / "model.onnx"
    path.write_bytes(graphs.mlp().SerializeToString())
    return path


def _table(groups: list[list[Competitor]], rounds: int) -> Table:
    rows = []
    for ours, *others in groups:
        row = [str(ours.in_flight), f"{median(ours.rates):,.0f}"]
        for one in others:
            row += [f"{median(one.rates):,.0f}", ratio(ours.rates, one.rates)]
        rows.append(row)
    columns = ["in flight", _OURS]
    for one in groups[0][1:]:
        columns += [one.name, "ours ÷ it"]
    how = (
        "ModelInfer of one row of the MLP per second, the same requests to each, one thread a run. "
        "MLServer runs the graph in its own process, without adaptive batching; PyTriton with "
        f"dynamic batching. Servers on one core, h2load on another; median of {rounds} interleaved "
        "rounds."
    )
    return Table("Other servers in Python", how, columns, rows)
