"""The KServe SDK's gRPC client, unmodified, in an environment of its own: it pins much else."""

import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import StartServer
from onnx import TensorProto
from tiny_models import EMBEDDER_WEIGHTS, Publisher, echo, embedder

CLIENT = Path(__file__).with_name("client.py")
pytestmark = [pytest.mark.heavy, pytest.mark.timeout(900)]


@pytest.fixture
def told(sdk_python: Path, repository: Publisher, start_server: StartServer) -> Any:
    """What the SDK's client was answered."""
    repository("emb", embedder())
    repository("FP16", echo(TensorProto.FLOAT16, ["n"]))
    repository("BOOL", echo(TensorProto.BOOL, ["n"]))
    repository("INT64", echo(TensorProto.INT64, ["n"]))
    repository("BYTES", echo(TensorProto.STRING, ["n"]))
    # Isolated: what this process imports from is none of the other environment's.
    command = [str(sdk_python), "-I", str(CLIENT), start_server().address]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert not result.returncode, result.stderr
    return json.loads(result.stdout.splitlines()[-1])


def test_the_client_s_calls_are_answered(told: Any) -> None:
    assert (told["live"], told["ready"], told["model_ready"]) == (True, True, True)
    expected = np.arange(8, dtype=np.float32).reshape(2, 4) @ EMBEDDER_WEIGHTS
    assert np.array(told["raw"]) == pytest.approx(expected, abs=1e-5)
    assert told["typed"] == told["raw"]
    assert told["answered"] == ["mine", "emb", "1"]
    assert told["same"] == dict.fromkeys(("FP16", "BOOL", "INT64", "BYTES"), True)
    unknown, misshapen = told["refusals"]
    assert unknown == ["NOT_FOUND", "no model 'embb' (did you mean 'emb'?)"]
    assert misshapen[0] == "INVALID_ARGUMENT"
    assert "has shape [2, 3], but the model takes [-1, 4]" in misshapen[1]
