"""What a request may bring: how many parts, and how much for its model, before it is parsed."""

from typing import Any

import grpc
import numpy as np
import pytest
from conftest import Running, StartServer
from failures import failure_of
from onnx import TensorProto
from tiny_models import Publisher, classifier, echo, embedder, generator

from forwardpass.server.onnx.signature import Signature, TensorSpec
from forwardpass.server.rpc.receive import MAX_BYTES
from forwardpass.v1 import model_card_pb2, tensor_pb2
from forwardpass.v1.inference_service_pb2 import (
    EmbedRequest,
    EmbedStreamRequest,
    GenerateRequest,
    GenerateStreamRequest,
    PredictRequest,
    PredictStreamRequest,
    PredictStreamResponse,
)
from forwardpass.v1.inference_service_pb2_grpc import InferenceServiceStub
from forwardpass.v1.model_service_pb2 import ModelReference
from forwardpass.v1.tensor_pb2 import Tensor
from forwardpass.wire import Reason, from_tensor, to_tensor
from forwardpass.wire.dtypes import DTYPES
from forwardpass.wire.fields import length_delimited

EMBEDDER, GENERATOR, CLASSIFIER = (ModelReference(name=name) for name in ("emb", "gen", "clf"))
# Far more than the 64 rows of 16 bytes that the embedder takes, and the 1,024 of 20 of the
# generator, but no more than the transport does.
MUCH = Tensor(
    data_type=tensor_pb2.DATA_TYPE_FLOAT32, shape=[MAX_BYTES // 8, 4], content=bytes(2 * MAX_BYTES)
)


@pytest.fixture
def running(repository: Publisher, start_server: StartServer) -> Running:
    repository("clf", classifier())
    repository("emb", embedder())
    repository("gen", generator())
    repository("text", echo(TensorProto.STRING, ["n"]))
    repository("long", echo(TensorProto.FLOAT, ["n", 4]))
    return start_server()


def raw(running: Running, method: str) -> Any:
    return running.channel.unary_unary(method)


def predict(running: Running) -> Any:
    return raw(running, "/forwardpass.v1.InferenceService/Predict")


def crumbs(field: int) -> bytes:
    """Returns 4 MiB of a field of no bytes."""
    return length_delimited(field, b"") * (2 << 20)


def of_entry(entry: bytes) -> bytes:
    return length_delimited(2, entry)


def of_tensor(tensor: bytes) -> bytes:
    return of_entry(length_delimited(2, tensor))


@pytest.mark.parametrize(
    ("method", "message", "told"),
    [
        ("InferenceService/Predict", crumbs(2), "more than 64 inputs"),
        ("InferenceService/Predict", crumbs(3), "more than 65536 images"),
        ("InferenceService/Predict", crumbs(4), "more than 65536 texts"),
        ("InferenceService/Predict", crumbs(5), "more than 64 outputs"),
        ("InferenceService/Predict", crumbs(15), "more than 256 other fields"),
        ("InferenceService/Predict", of_entry(crumbs(2)), "more than 1 tensors"),
        ("InferenceService/Predict", of_tensor(crumbs(2)), "more than 32 axes"),
        ("InferenceService/Predict", of_tensor(b"\x10\1" * (2 << 20)), "more than 256 other"),
        ("InferenceService/Embed", of_tensor(crumbs(2)), "more than 32 axes"),
        ("InferenceService/Generate", crumbs(4), "more than 1 latents"),
        ("InferenceService/Generate", length_delimited(4, crumbs(2)), "more than 32 axes"),
        ("ModelService/ListModels", crumbs(15), "more than 256 other fields"),
        ("ModelService/GetModel", crumbs(1), "more than 256 other fields"),
    ],
)
def test_t35_a_message_of_too_many_parts_is_refused(
    running: Running, method: str, message: bytes, told: str
) -> None:
    failure = failure_of(raw(running, f"/forwardpass.v1.{method}"), message, timeout=60)
    assert failure.reason is Reason.INVALID_INPUT
    assert failure.message.startswith(told)


def test_t35_in_a_stream_too_many_parts_are_that_request_s_own_error(running: Running) -> None:
    call: Any = running.channel.stream_stream(
        "/forwardpass.v1.InferenceService/PredictStream",
        response_deserializer=PredictStreamResponse.FromString,
    )
    request = PredictRequest(model=EMBEDDER, inputs={"features": to_tensor(np.zeros((1, 4), "f4"))})
    good = PredictStreamRequest(request=request).SerializeToString()
    answers = list(call(iter([good, length_delimited(1, crumbs(2)), good]), timeout=60))
    assert [answer.WhichOneof("result") for answer in answers] == ["response", "error", "response"]
    assert answers[1].error.message.startswith("more than 64 inputs")


def test_t35_generate_stream_too(running: Running) -> None:
    call: Any = running.channel.unary_stream("/forwardpass.v1.InferenceService/GenerateStream")
    failure = failure_of(
        lambda: list(call(length_delimited(1, length_delimited(4, crumbs(2))), timeout=60))
    )
    assert failure.message.startswith("more than 32 axes")


def test_a_request_too_long_for_its_model_is_refused_before_its_elements_are_read(
    running: Running,
) -> None:
    # What reads them finds that they do not fit their shape.
    torn = Tensor(data_type=MUCH.data_type, shape=[7], content=MUCH.content)
    request = PredictRequest(model=EMBEDDER, inputs={"features": torn}).SerializeToString()
    failure = failure_of(predict(running), request, timeout=60)
    assert (failure.reason, failure.field) == (Reason.INVALID_INPUT, "inputs")
    assert "bytes of tensors, but the model takes at most 1024 in a request" in failure.message
    other = PredictRequest(model=ModelReference(name="long"), inputs={"x": torn})
    failure = failure_of(predict(running), other.SerializeToString(), timeout=60)
    assert "shape [7] takes 28 bytes" in failure.message


def test_embed_and_generate_hold_their_models_limits_too(running: Running) -> None:
    embed: Any = running.inference.Embed
    request = EmbedRequest(model=EMBEDDER, inputs={"features": MUCH})
    assert "takes at most 1024 in a request" in failure_of(embed, request).message
    generate: Any = running.inference.Generate
    samples = GenerateRequest(model=GENERATOR, latents=MUCH)
    assert "takes at most 20480 in a request" in failure_of(generate, samples).message
    stream: Any = running.inference.GenerateStream
    failure = failure_of(lambda: list(stream(GenerateStreamRequest(request=samples))))
    assert "takes at most 20480 in a request" in failure.message


def test_a_stream_holds_the_limit_of_the_model_named_before(running: Running) -> None:
    few = to_tensor(np.zeros((1, 4), np.float32))
    requests = [
        EmbedRequest(model=EMBEDDER, inputs={"features": few}),
        EmbedRequest(inputs={"features": MUCH}),
        EmbedRequest(inputs={"features": few}),
    ]
    messages = [EmbedStreamRequest(request=request) for request in requests]
    answers = list(running.inference.EmbedStream(iter(messages)))
    assert [answer.WhichOneof("result") for answer in answers] == ["response", "error", "response"]
    assert "takes at most 1024 in a request" in answers[1].error.message


def test_what_is_too_long_by_little_is_told_by_its_rows(running: Running) -> None:
    rows = to_tensor(np.zeros((10_000, 4), np.float32))
    call: Any = running.inference.Predict
    failure = failure_of(call, PredictRequest(model=EMBEDDER, inputs={"features": rows}))
    assert failure.message == "10000 rows, but the model takes at most 64 in a request"


def test_images_and_texts_are_no_tensors(running: Running) -> None:
    call: Any = running.inference.Predict
    pictures = PredictRequest(model=CLASSIFIER, images=[bytes(2 * MAX_BYTES)])
    assert failure_of(call, pictures).message.startswith("images[0]: ")
    texts = PredictRequest(model=CLASSIFIER, texts=["x" * MAX_BYTES] * 2)
    assert "takes no texts" in failure_of(call, texts).message


def test_a_model_that_takes_any_number_is_sent_much(running: Running) -> None:
    request = PredictRequest(model=ModelReference(name="long"), inputs={"x": MUCH})
    unlimited = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
    with grpc.insecure_channel(running.address, unlimited) as channel:
        call: Any = InferenceServiceStub(channel).Predict
        answer = call(request, timeout=60)
    assert from_tensor(answer.outputs["y"]).shape == (MAX_BYTES // 8, 4)


def spec(
    kind: "tensor_pb2.DataType.ValueType", *shape: int, ranked: bool = True
) -> dict[str, TensorSpec]:
    role = model_card_pb2.TENSOR_ROLE_UNSPECIFIED
    name = f"x{shape}"
    return {name: TensorSpec(name, DTYPES[kind], shape, role, ranked)}


def test_how_many_bytes_a_signature_takes() -> None:
    floats, text = tensor_pb2.DATA_TYPE_FLOAT32, tensor_pb2.DATA_TYPE_STRING
    image, vector = spec(floats, -1, 3, 5), spec(floats, -1)

    def most(*inputs: dict[str, TensorSpec], batched: bool = True, max_rows: int = 10) -> int:
        merged = {name: one for each in inputs for name, one in each.items()}
        return Signature(merged, {}, batched, max_rows).max_bytes()

    assert most(image) == 10 * 60
    assert most(image, vector) == 10 * 64
    assert most(image, max_rows=0) == most(image, batched=False) == 0
    assert most(spec(floats, -1, -1, -1)) == most(image, spec(text, -1)) == 0
    assert most(spec(floats, ranked=False)) == 0
