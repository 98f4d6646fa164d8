"""Messages that are compressed, in either direction; `test_sizes` has those that should not be."""

import gzip
import zlib
from typing import Any

import grpc
import numpy as np
import pytest
from conftest import StartServer
from onnx import TensorProto
from tiny_models import Publisher, echo

from forwardpass.v1.inference_service_pb2 import PredictResponse
from forwardpass.wire import from_tensor

from .frames import PREDICT, Wire, data
from .harness import PATIENCE, assert_idle, predict

ZEROS = np.zeros(1_000, np.float32)
MESSAGE = predict("echo", {"x": ZEROS}).SerializeToString()
# What the clients of gRPC core say of themselves, and what others do.
ACCEPTED = ["identity, deflate, gzip", "gzip"]


def answered(message: bytes) -> Any:
    return from_tensor(PredictResponse.FromString(message).outputs["y"])


@pytest.mark.parametrize("name", ["gzip", "deflate"])
def test_a_compressed_request_is_answered(
    repository: Publisher, start_server: StartServer, name: str
) -> None:
    repository("echo", echo(TensorProto.FLOAT, ["n"]))
    running = start_server()
    packed = {"gzip": gzip, "deflate": zlib}[name].compress(MESSAGE)
    assert len(packed) < len(MESSAGE) / 20
    with Wire(running) as wire:
        wire.greet()
        prefix = b"\1" + len(packed).to_bytes(4, "big")
        wire.send(wire.ask(1, ("grpc-encoding", name)), *data(1, packed, prefix=prefix))
        headers, body = wire.answer(1)
    assert headers["grpc-status"] == "0"
    np.testing.assert_array_equal(answered(body[5:]), ZEROS)
    assert_idle(running)


@pytest.mark.parametrize("name", ["Gzip", "Deflate"])
def test_calls_of_a_grpc_client_may_be_compressed(
    repository: Publisher, start_server: StartServer, name: str
) -> None:
    repository("echo", echo(TensorProto.FLOAT, ["n"]))
    running = start_server(compress_answers=True)
    call: Any = running.channel.unary_unary(PREDICT)
    message = call(MESSAGE, timeout=PATIENCE, compression=getattr(grpc.Compression, name))
    np.testing.assert_array_equal(answered(message), ZEROS)


@pytest.mark.parametrize("name", ["gzip", "deflate"])
def test_calls_of_tritonclient_may_be_compressed(
    repository: Publisher, start_server: StartServer, name: str
) -> None:
    triton = pytest.importorskip("tritonclient.grpc")
    repository("echo", echo(TensorProto.FLOAT, ["n"]))
    running = start_server(compress_answers=True)
    sent = triton.InferInput("x", [len(ZEROS)], "FP32")
    sent.set_data_from_numpy(ZEROS)
    with triton.InferenceServerClient(running.address) as client:
        answer = client.infer("echo", [sent], compression_algorithm=name)
    np.testing.assert_array_equal(answer.as_numpy("y"), ZEROS)


@pytest.mark.parametrize("accepted", ACCEPTED)
def test_answers_are_compressed_where_asked_and_where_the_caller_takes_it(
    repository: Publisher, start_server: StartServer, accepted: str
) -> None:
    repository("echo", echo(TensorProto.FLOAT, ["n"]))
    running = start_server(compress_answers=True)
    with Wire(running) as wire:
        wire.greet()
        wire.send(wire.ask(1, ("grpc-accept-encoding", accepted)), *data(1, MESSAGE))
        headers, body = wire.answer(1)
        assert headers["grpc-encoding"] == "gzip"
        assert body[:1] == b"\1"
        np.testing.assert_array_equal(answered(gzip.decompress(body[5:])), ZEROS)
        # Who says nothing, or that nothing will do, is answered plainly.
        for stream, metadata in ((3, ()), (5, (("grpc-accept-encoding", "identity"),))):
            wire.send(wire.ask(stream, *metadata), *data(stream, MESSAGE))
            headers, body = wire.answer(stream)
            assert "grpc-encoding" not in headers
            np.testing.assert_array_equal(answered(body[5:]), ZEROS)
    assert_idle(running)


@pytest.mark.parametrize("accepted", ACCEPTED)
def test_answers_are_plain_unless_asked_for(
    repository: Publisher, start_server: StartServer, accepted: str
) -> None:
    repository("echo", echo(TensorProto.FLOAT, ["n"]))
    running = start_server()
    with Wire(running) as wire:
        wire.greet()
        wire.send(wire.ask(1, ("grpc-accept-encoding", accepted)), *data(1, MESSAGE))
        headers, body = wire.answer(1)
    assert "grpc-encoding" not in headers
    np.testing.assert_array_equal(answered(body[5:]), ZEROS)
