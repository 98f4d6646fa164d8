"""One server for every graph of the matrix."""

from collections.abc import Iterator

import grpc
import pytest
from conftest import Running

from forwardpass.server.app import Server
from forwardpass.server.settings import Settings
from forwardpass.v1 import inference_service_pb2_grpc, model_service_pb2_grpc

from . import elements, programs, sensitive, structures
from .graph import Graph

GRAPHS: tuple[Graph, ...] = (
    *elements.identities(),
    *elements.casts(),
    *elements.operators(),
    *structures.names(),
    *structures.opsets(),
    *structures.initializers(),
    *structures.inputs_and_outputs(),
    *structures.external(),
    *programs.functions(),
    *programs.control_flow(),
    *programs.domains(),
    *sensitive.reductions(),
    *sensitive.open_axes(),
    *sensitive.dependent_rows(),
)
REFUSED = tuple(programs.refused())


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A server whose repository holds all graphs; its tests change nothing but counters."""
    root = tmp_path_factory.mktemp("models")
    for graph in (*GRAPHS, *(graph for graph, _ in REFUSED)):
        folder = root / graph.name / "1"
        folder.mkdir(parents=True)
        (folder / "model.onnx").write_bytes(graph.model.SerializeToString())
        for name, data in graph.files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(data)
    server = Server(Settings(models=root, port=0, metrics_port=0, threads=1, sandbox=False))
    server.start()
    server.wait_loaded()
    with grpc.insecure_channel(
        f"127.0.0.1:{server.port}", [("grpc.use_local_subchannel_pool", 1)]
    ) as channel:
        yield Running(
            server,
            channel,
            inference_service_pb2_grpc.InferenceServiceStub(channel),
            model_service_pb2_grpc.ModelServiceStub(channel),
        )
    server.stop()
