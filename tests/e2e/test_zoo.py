"""Every architecture of the zoo, untrained: through the server's checks and a server."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

from forwardpass.artefact import CARD_KEY, Golden, card_from_json, load_golden, within
from forwardpass.client import Client
from forwardpass.server.app import Server
from forwardpass.server.settings import Settings
from forwardpass.trainer.training.workspace import Workspace
from forwardpass.trainer.untrained import publish_untrained
from forwardpass.trainer.zoo import ARCHITECTURES
from forwardpass.v1.model_card_pb2 import Tolerance

SMALL = [name for name in ARCHITECTURES if name.startswith(("linear", "mlp", "lenet"))]


def test_the_small_ones_are_published_checked_and_served(workspace: Workspace) -> None:
    for name in SMALL:
        publish_untrained(ARCHITECTURES[name], workspace)

    check_repository(workspace.models, SMALL)


@pytest.mark.zoo
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_it_is_published_checked_and_served(name: str, tmp_path: Path) -> None:
    models = tmp_path / "models"
    try:
        # In a process of its own, whose memory is free once it has ended.
        run("forwardpass-train", "zoo", name, "--models", str(models))
        check_repository(models, [name])
    finally:
        # All of them together take two gigabytes, which pytest would keep.
        shutil.rmtree(models, ignore_errors=True)


def run(command: str, *arguments: str) -> str:
    program = Path(sys.executable).with_name(command)
    done = subprocess.run([program, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def check_repository(models: Path, names: list[str]) -> None:
    """Checks the first version of each model: its file, and what the server makes of it."""
    goldens, tolerances = {}, {}
    for name in names:
        folder = models / name / "1"
        model = onnx.load(folder / "model.onnx")
        card = card_from_json(next(p.value for p in model.metadata_props if p.key == CARD_KEY))
        goldens[name], tolerances[name] = load_golden(folder / "golden.npz"), card.tolerance
        check_graph(model.graph, card.parameters)
        check_golden(goldens[name], card.tolerance)
    told = run("forwardpass-serve", "check", str(models))
    checked = [json.loads(line) for line in told.splitlines()]
    assert {facts["model"]: facts["state"] for facts in checked} == dict.fromkeys(names, "READY")
    assert {facts["model"]: facts["golden"]["rows"] for facts in checked} == {
        name: golden.rows for name, golden in goldens.items()
    }

    server = Server(Settings(models=models, port=0, metrics_port=0, threads=1))
    server.start()
    try:
        server.wait_loaded()
        assert server.readiness.ready
        with Client(f"127.0.0.1:{server.port}") as client:
            for name in names:
                check_answers(client, name, goldens[name], tolerances[name])
    finally:
        server.stop()


def check_graph(graph: onnx.GraphProto, parameters: int) -> None:
    """It holds what evaluation needs and nothing else: no dropout, no auxiliary head."""
    assert "Dropout" not in {node.op_type for node in graph.node}
    floats = [tensor.dims for tensor in graph.initializer if tensor.data_type == 1]
    # Beside the parameters there are statistics, and of equal ones the graph has one.
    assert sum(int(np.prod(extents)) for extents in floats) == pytest.approx(parameters, rel=0.01)


def check_golden(golden: Golden, tolerance: Tolerance) -> None:
    """The answers are numbers, and one input's would not pass for another's."""
    for output in golden.outputs.values():
        assert np.isfinite(output).all()
        assert 0.05 < output.std() < 20
        assert not within(np.roll(output, 1, axis=0), output, tolerance)


def check_answers(client: Client, name: str, golden: Golden, tolerance: Tolerance) -> None:
    """Predict and Embed give what torch gave."""
    outputs = client.predict(name, golden.inputs).outputs
    assert outputs.keys() == golden.outputs.keys()
    for output, reference in golden.outputs.items():
        assert within(np.asarray(outputs[output]), reference, tolerance)
    if "embedding" in golden.outputs:
        vectors = client.embed(name, golden.inputs).vectors
        assert within(vectors, golden.outputs["embedding"], tolerance)
