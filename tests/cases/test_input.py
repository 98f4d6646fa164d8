"""T08 to T10, T12, T13, T18, T23 to T26: what is refused before it costs anything.

The other cases on the structure of a request stand in `tests/open_inference`. Ruled: T23 to T25
hold for what Generate takes: count, latents, length, temperature, prompt, class and seed.
"""

import io
import struct
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from conftest import Running, StartServer
from failures import failure_of, read_failure
from open_inference.calls import Calls, new
from PIL import Image
from server.test_process import run, serving
from tiny_models import Publisher, classifier, embedder, generator, picker

from forwardpass.v1.inference_service_pb2 import (
    GenerateRequest,
    GenerateResponse,
    GenerateStreamRequest,
    PredictRequest,
)
from forwardpass.v1.inference_service_pb2_grpc import InferenceServiceStub
from forwardpass.v1.model_service_pb2 import ModelReference
from forwardpass.v1.tensor_pb2 import DATA_TYPE_FLOAT32, Tensor
from forwardpass.wire import Reason, to_tensor

from .harness import PATIENCE, Gate, assert_idle, pick, picked

PREDICT = "/forwardpass.v1.InferenceService/Predict"
MODEL_INFER = "/inference.GRPCInferenceService/ModelInfer"
GENERATE = "/forwardpass.v1.InferenceService/Generate"
MALFORMED = {
    "bytes": b"\xff\xff\xff",
    # Field 1: a model's name in the one method, the message that holds it in the other.
    "a name that is not UTF-8": b"\x0a\x04\x0a\x02\xc3\x28",
    "nothing": b"",
    "a million groups": b"\x0b" * 1_000_000,
}


def nested(depth: int) -> bytes:
    """Returns inputs within inputs: field 5, so many times."""
    message = b""
    for _ in range(depth):
        size, length = len(message), b""
        while size > 127:
            length += bytes([size & 127 | 128])
            size >>= 7
        message = b"\x2a" + length + bytes([size]) + message
    return message


def test_t08_t09_bytes_that_are_no_request_are_refused_and_not_logged(
    repository: Publisher,
) -> None:
    repository("pick", picker())
    with serving(repository.root) as server:
        server.wait_for("ready")
        with grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
            for method in (PREDICT, MODEL_INFER):
                call: Any = channel.unary_unary(method)
                for message in (*MALFORMED.values(), nested(200), nested(10_000)):
                    for _ in range(20):
                        failure = failure_of(call, message, timeout=PATIENCE)
                        assert failure.reason is Reason.INVALID_INPUT
            assert picked(InferenceServiceStub(channel).Predict(pick(1))) == [1]
        server.process.terminate()
        assert server.finish() == 0
    # Callers could fill the log otherwise.
    assert [line["event"] for line in server.lines] == [
        *("listening", "model_ready", "ready", "draining", "model_unloaded", "stopped"),
    ]


def test_t10_the_slow_form_of_protobuf_is_refused_at_the_start(repository: Publisher) -> None:
    ended = run(
        *(str(repository.root), "--port", "0", "--metrics-port", "0"),
        PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION="python",
    )
    assert ended.returncode == 1
    (line,) = ended.stderr.splitlines()
    assert "protobuf runs as 'python'" in line
    assert "unset PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION" in line


CLAIMS = {
    "t12": ("FP32", [1 << 33, 1 << 33], 0),
    "t13": ("FP32", [1 << 31], 16),
    "t18": ("INT8", [1 << 23, 4], 1 << 25),
}


@pytest.mark.parametrize("case", CLAIMS)
def test_t12_t13_t18_what_a_shape_claims_is_not_allocated(
    repository: Publisher, start_server: StartServer, case: str
) -> None:
    repository("emb", embedder())
    running = start_server()
    calls = Calls(running.channel)
    datatype, shape, size = CLAIMS[case]
    request = new("ModelInferRequest", model_name="emb", raw_input_contents=[bytes(size)])
    request.inputs.add(name="features", datatype=datatype, shape=shape)
    message = request.SerializeToString()
    failure_of(calls.send, "ModelInfer", message)
    tracemalloc.start()
    try:
        failure = failure_of(calls.send, "ModelInfer", message)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert failure.reason is Reason.INVALID_INPUT
    # It holds the message, and perhaps its contents apart; as float32 they would be four times it.
    assert peak < 2 * size + (2 << 20)
    assert_idle(running)


def draw(**fields: Any) -> GenerateRequest:
    return GenerateRequest(model=ModelReference(name="gen"), **fields)


def rows(count: int) -> Tensor:
    return to_tensor(np.zeros((count, 5), np.float32))


UNDRAWABLE: dict[str, tuple[GenerateRequest, str]] = {
    "t23 no samples": (draw(count=0), "count"),
    "t23 a billion samples": (draw(count=10**9), "count"),
    "t23 the most that can be said": (draw(count=2**32 - 1), "count"),
    "t23 one sample too many": (draw(count=1025), "count"),
    "t23 one latent too many": (draw(latents=rows(1025)), "count"),
    "t23 no latents": (draw(latents=rows(0)), "count"),
    "t23 fewer latents than samples": (draw(count=3, latents=rows(2)), "count"),
    "t23 latents that are not there": (
        draw(latents=Tensor(data_type=DATA_TYPE_FLOAT32, shape=[2**31, 5])),
        "inputs.'latents'",
    ),
    "t23 a length": (draw(length=2**31 - 1), "length"),
    "t24 a temperature of NaN": (draw(temperature=float("nan")), "temperature"),
    "t24 a temperature below 0": (draw(temperature=-1), "temperature"),
    "t24 an infinite temperature": (draw(temperature=float("inf")), "temperature"),
    "t24 a class": (draw(class_index=2**32 - 1), "class_index"),
    "t24 latents of another type": (draw(latents=to_tensor(np.zeros((1, 5)))), "latents"),
    "t24 a seed and latents": (draw(seed=2**64 - 1, latents=rows(1)), "seed"),
    "t25 a prompt of a mebibyte": (draw(prompt="x" * (1 << 20)), "prompt"),
    "t25 a class of a mebibyte": (draw(class_label="x" * (1 << 20)), "class_label"),
}


@pytest.mark.parametrize("case", UNDRAWABLE)
def test_what_cannot_be_drawn_is_refused_before_anything_runs(
    gate: Gate, repository: Publisher, start_server: StartServer, case: str
) -> None:
    repository("gen", generator())
    running = start_server()
    request, field = UNDRAWABLE[case]
    failure = failure_of(running.inference.Generate, request, timeout=PATIENCE)
    stub: Any = running.inference
    stream = stub.GenerateStream(GenerateStreamRequest(request=request), timeout=PATIENCE)
    with pytest.raises(grpc.RpcError) as caught:
        next(stream)
    for told in (failure, read_failure(caught.value)):
        assert told.reason is Reason.INVALID_INPUT
        assert told.field == field
        assert len(told.message.encode()) <= 256
    assert gate.runs == []
    assert len(running.inference.Generate(draw(count=2, png=True)).images) == 2
    assert_idle(running)


def test_t24_a_seed_of_65_bits_cannot_be_asked_for(
    repository: Publisher, start_server: StartServer
) -> None:
    repository("gen", generator())
    running = start_server()
    with pytest.raises(ValueError, match="out of range"):
        draw(seed=2**64)
    # Bytes that try are read as protobuf reads them, without bit 64; the answer tells the seed.
    call: Any = running.channel.unary_unary(GENERATE)
    too_large = draw().SerializeToString() + b"\x18\x85" + b"\x80" * 8 + b"\x02"
    answer = GenerateResponse.FromString(call(too_large))
    assert answer.seed == 5
    assert answer == running.inference.Generate(draw(seed=5))
    assert running.inference.Generate(draw(seed=2**64 - 1)).seed == 2**64 - 1


@pytest.mark.parametrize("top_k", [4, 2**31, 2**32 - 1])
def test_t24_more_classes_than_there_are_cannot_be_named(
    repository: Publisher, start_server: StartServer, top_k: int
) -> None:
    repository("clf", classifier())
    running = start_server()
    images = {"image": to_tensor(np.zeros((1, 4, 4, 1), np.uint8))}
    request = PredictRequest(model=ModelReference(name="clf"), inputs=images, top_k=top_k)
    failure = failure_of(running.inference.Predict, request)
    assert failure.reason is Reason.INVALID_INPUT
    assert failure.field == "top_k"


# The pixels of a black image of 4 x 4, each row with its filter.
BLACK = bytes(4 * 5)


def chunk(kind: bytes, data: bytes) -> bytes:
    checksum = zlib.crc32(kind + data)
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", checksum)


def png(width: int, height: int, *chunks: bytes) -> bytes:
    """Returns a greyscale PNG whose chunks are given."""
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    parts = (chunk(b"IHDR", header), *chunks, chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def photograph() -> bytes:
    noise = np.random.default_rng(0).integers(0, 256, (200, 200, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, "JPEG")
    return buffer.getvalue()


def zeros() -> bytes:
    """Returns 100 MiB in some 100 KB."""
    return zlib.compress(bytes(100 << 20))


# How each is made, and what is told of it; nothing where it is taken.
IMAGES: dict[str, tuple[Callable[[], bytes], str | None]] = {
    "t26 100 megapixels": (
        lambda: png(10_000, 10_000, chunk(b"IDAT", zeros())),
        "10000 x 10000 pixels; at most 64000000 are read",
    ),
    "t26 a side too long": (lambda: png(2**31 - 1, 1), "at most 64000000 are read"),
    "t26 the most pixels that can be claimed": (
        lambda: png(2**31 - 1, 2**31 - 1),
        "too many pixels",
    ),
    "t26 a text of 100 MiB": (
        lambda: png(4, 4, chunk(b"zTXt", b"a\0\0" + zeros()), chunk(b"IDAT", zlib.compress(BLACK))),
        "Decompressed data too large",
    ),
    "t26 more rows than it has": (lambda: png(4, 4, chunk(b"IDAT", zeros())), None),
    "t26 half a JPEG": (lambda: photograph()[:10_000], "the image is damaged"),
    "t26 the head of a JPEG": (lambda: photograph()[:20], "neither a JPEG nor a PNG"),
    "t26 a PNG without pixels": (lambda: png(4, 4), "the image is damaged"),
    "t26 FITS": (lambda: b"SIMPLE  =" + b" " * 2871, "neither a JPEG nor a PNG"),
    "t26 EPS": (lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n", "neither a JPEG nor a PNG"),
    "t26 TIFF": (lambda: b"II*\0" + bytes(100), "neither a JPEG nor a PNG"),
}


@contextmanager
def peak() -> Iterator[list[int]]:
    """Gives, once it is left, the bytes by which this process has grown at the most."""

    def read(field: str) -> int:
        status = Path("/proc/self/status").read_text(encoding="ascii")
        (line,) = (line for line in status.splitlines() if line.startswith(field))
        return int(line.split()[1]) << 10

    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # starts the peak anew
    before, grown = read("VmRSS:"), [0]
    yield grown
    grown[0] = read("VmHWM:") - before


def classify(running: Running, image: bytes) -> Any:
    request = PredictRequest(model=ModelReference(name="clf"), images=[image])
    return running.inference.Predict(request, timeout=PATIENCE)


@pytest.mark.parametrize("case", IMAGES)
def test_an_image_that_is_none_or_too_large_is_refused_before_it_is_unpacked(
    repository: Publisher, start_server: StartServer, case: str
) -> None:
    repository("clf", classifier())
    running = start_server()
    assert classify(running, photograph()).outputs
    make, message = IMAGES[case]
    image = make()
    with peak() as grown:
        if message is None:
            # What is too much of it is left alone.
            assert classify(running, image).outputs
        else:
            failure = failure_of(classify, running, image)
            assert failure.reason is Reason.INVALID_INPUT
            assert failure.field == "images[0]"
            assert message in failure.message
    assert grown[0] < 50 << 20
    assert classify(running, photograph()).outputs
    assert_idle(running)
