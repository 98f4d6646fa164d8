"""T31 to T36: messages and metadata that are too long, or grow to more than they are."""

import zlib
from typing import Any

import grpc
import numpy as np
import pytest
from conftest import Running, StartServer
from failures import failure_of
from onnx import TensorProto, helper
from tiny_models import Publisher, TinyModel, generator, maker, model, picker

from forwardpass.v1.inference_service_pb2 import GenerateRequest, GenerateResponse
from forwardpass.v1.model_service_pb2 import ModelReference
from forwardpass.wire import Reason
from forwardpass.wire.open_inference import SERVICE

from .frames import PREDICT, Wire, data
from .harness import (
    PATIENCE,
    Gate,
    assert_idle,
    connect,
    growing_at_most,
    metric,
    pick,
    picked,
    predict,
    resident,
    send,
    stub_of,
)

LIMIT = 1 << 16
INFER = f"/{SERVICE}/ModelInfer"
# 2,097,152 inputs of two bytes each, which a parser makes 176 MiB of.
CRUMBS = b"\x2a\x00" * (2 << 20)
TOO_LONG = grpc.StatusCode.RESOURCE_EXHAUSTED


def counter() -> TinyModel:
    """Tells how many bytes it was given."""
    value = helper.make_tensor_value_info
    return TinyModel(
        model(
            [helper.make_node("Shape", ["x"], ["count"])],
            [value("x", TensorProto.UINT8, ["n"])],
            [value("count", TensorProto.INT64, [1])],
        )
    )


def of_length(length: int) -> bytes:
    """Returns a request that takes so many bytes."""
    excess = 0
    while True:
        content = np.zeros(length - excess, np.uint8)
        message = predict("counter", {"x": content}).SerializeToString()
        if len(message) == length:
            return message
        excess += len(message) - length


def bomb(megabytes: int) -> bytes:
    """Returns zeros as gzip has them, a thousandth of their number."""
    packer = zlib.compressobj(9, zlib.DEFLATED, 16 + zlib.MAX_WBITS)
    return b"".join([*(packer.compress(bytes(1 << 20)) for _ in range(megabytes)), packer.flush()])


def raw(running: Running, method: str = PREDICT) -> Any:
    """Returns a call of bytes."""
    return running.channel.unary_unary(method)


def code_of(call: Any, message: bytes, **options: Any) -> grpc.StatusCode:
    with pytest.raises(grpc.RpcError) as caught:
        call(message, timeout=PATIENCE, **options)
    return caught.value.code()


def explode(wire: Wire, stream: int, packed: bytes) -> dict[str, str]:
    """Sends what grows beyond the limit when it is unpacked, and returns how the call ended."""
    prefix = b"\1" + len(packed).to_bytes(4, "big")
    wire.send(wire.ask(stream, ("grpc-encoding", "gzip")), *data(stream, packed, prefix=prefix))
    return wire.trailers(stream)


def test_t31_a_message_may_be_as_long_as_the_limit_and_no_longer(
    repository: Publisher, start_server: StartServer
) -> None:
    repository("counter", counter())
    running = start_server(max_message_bytes=LIMIT)
    assert raw(running)(of_length(LIMIT), timeout=PATIENCE)
    assert code_of(raw(running), of_length(LIMIT + 1)) is TOO_LONG
    assert metric(running, "grpc_server_started_total", grpc_method="Predict") == 1
    assert_idle(running)


def test_t31_an_answer_that_is_too_long_is_refused_too(
    repository: Publisher, start_server: StartServer
) -> None:
    repository("gen", generator())
    repository("maker", maker())
    running = start_server(max_message_bytes=1 << 12)
    made = predict("maker", {"shape": np.array([2048])})
    assert code_of(raw(running, PREDICT), made.SerializeToString()) is TOO_LONG
    generate = raw(running, "/forwardpass.v1.InferenceService/Generate")
    few, many = (GenerateRequest(model=ModelReference(name="gen"), count=n) for n in (1, 1024))
    # What samples take is known before they are made.
    failure = failure_of(generate, many.SerializeToString())
    assert (failure.reason, failure.field) == (Reason.INVALID_INPUT, "count")
    assert "16384 bytes, but a message has at most 4096" in failure.message
    answer = GenerateResponse.FromString(generate(few.SerializeToString(), timeout=PATIENCE))
    assert answer.samples.shape == [1, 4, 4, 1]
    assert_idle(running)


def test_t32_a_bomb_is_not_unpacked_beyond_the_limit(
    repository: Publisher, start_server: StartServer
) -> None:
    repository("pick", picker())
    running = start_server(max_message_bytes=4 << 20)
    packed = bomb(128)
    with Wire(running) as wire:
        wire.greet()
        with growing_at_most(50 << 20):
            trailers = explode(wire, 1, packed)
    assert trailers["grpc-status"] == str(TOO_LONG.value[0])
    assert trailers["grpc-message"] == "Decompressed message larger than max"
    assert picked(running.inference.Predict(pick(2))) == [2]
    assert_idle(running)


def test_t33_what_was_too_long_leaves_no_memory_behind(
    repository: Publisher, start_server: StartServer
) -> None:
    repository("pick", picker())
    running = start_server(max_message_bytes=LIMIT)
    packed = bomb(1)

    def refuse(wire: Wire, streams: range) -> None:
        futures = [raw(running).future(bytes(LIMIT + 1), timeout=PATIENCE) for _ in streams]
        for stream in streams:
            assert explode(wire, stream, packed)["grpc-status"] == str(TOO_LONG.value[0])
        assert {future.exception().code() for future in futures} == {TOO_LONG}

    with Wire(running) as wire:
        wire.greet()
        refuse(wire, range(1, 201, 2))
        before = resident()
        for first in (201, 401):
            refuse(wire, range(first, first + 200, 2))
        # To keep the 200 messages of each kind would take 13 MB, and 210 what the bombs grow to.
        assert resident() - before < 8 << 20
    assert_idle(running)


def test_t34_metadata_may_have_8_kib(repository: Publisher, start_server: StartServer) -> None:
    repository("pick", picker())
    running = start_server()
    message = pick(1).SerializeToString()
    with connect(running) as other:
        assert picked(stub_of(other).Predict(pick(3), timeout=PATIENCE)) == [3]
        for kibibytes in (4, 7):
            metadata = (("x-padding", "x" * (kibibytes << 10)),)
            assert raw(running)(message, timeout=PATIENCE, metadata=metadata)
        # More than once: core's own default refuses what is somewhat too long at random.
        for kibibytes in (9, 9, 9, 12, 20, 64):
            metadata = (("x-padding", "x" * (kibibytes << 10)),)
            assert code_of(raw(running), message, metadata=metadata) is TOO_LONG
        assert metric(running, "grpc_server_started_total", grpc_method="Predict") == 3
        assert picked(stub_of(other).Predict(pick(2), timeout=PATIENCE)) == [2]
    assert_idle(running)


def test_t34_metadata_that_is_no_text_harms_nobody(
    repository: Publisher, start_server: StartServer
) -> None:
    repository("pick", picker())
    running = start_server()
    message = pick(1).SerializeToString()
    with connect(running) as other, Wire(running) as wire:
        wire.greet()
        # Text beyond ASCII, which gRPC does not allow, but its core takes: in an error that names
        # the request it must not do harm.
        wire.send(wire.ask(1, ("x-request-id", "café\n")), *data(1, b"\xff"))
        assert wire.trailers(1)["grpc-status"] == "3"
        wire.send(wire.ask(3, ("x-sum-bin", "!?")), *data(3, message))
        assert wire.trailers(3)["grpc-status"] == "13"
        assert picked(stub_of(other).Predict(pick(2), timeout=PATIENCE)) == [2]
    assert_idle(running)


def test_t35_a_message_of_crumbs_is_refused_before_it_grows(
    repository: Publisher, start_server: StartServer
) -> None:
    repository("pick", picker())
    running = start_server()
    with connect(running) as other:
        # The message itself is held a few times, by both ends.
        with growing_at_most(64 << 20):
            future = raw(running, INFER).future(CRUMBS, timeout=PATIENCE)
            for index in range(4):
                assert picked(stub_of(other).Predict(pick(index), timeout=PATIENCE)) == [index]
            assert failure_of(future.result).reason is Reason.INVALID_INPUT

        def refuse(times: int) -> None:
            for _ in range(times):
                assert code_of(raw(running, INFER), CRUMBS) is grpc.StatusCode.INVALID_ARGUMENT

        refuse(5)
        before = resident()
        refuse(30)
        # To keep the 30 messages would take 120 MB, to keep what a parser makes of them 5 GB.
        assert resident() - before < 48 << 20
    assert_idle(running)


def test_t36_a_full_server_refuses_a_message_of_crumbs_unread(
    repository: Publisher, gate: Gate, start_server: StartServer
) -> None:
    repository("pick", picker())
    running = start_server(max_in_flight=1)
    gate.shut()
    held = send(running, pick(1))
    gate.wait_started()
    # Had it been read, it would be found to be wrong.
    failure = failure_of(raw(running, INFER), CRUMBS, timeout=PATIENCE)
    assert failure.reason is Reason.QUEUE_FULL
    gate.open()
    assert picked(held.result()) == [1]
    assert_idle(running)
