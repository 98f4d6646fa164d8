"""Each row of the status contract, over a real connection."""

from collections.abc import Callable
from typing import Any

import grpc
import numpy as np
import pytest
from conftest import Guest, Running, StartServer
from failures import failure_of
from onnx import TensorProto
from tiny_models import Publisher, classifier, echo, embedder, generator, picker

from forwardpass.pixels import encode_png
from forwardpass.server.app import Server
from forwardpass.server.settings import Settings
from forwardpass.v1.inference_service_pb2 import (
    EmbedRequest,
    GenerateRequest,
    PredictRequest,
)
from forwardpass.v1.model_service_pb2 import (
    GetModelRequest,
    ListModelsRequest,
    LoadModelRequest,
    ModelReference,
    UnloadModelRequest,
)
from forwardpass.v1.tensor_pb2 import DATA_TYPE_FLOAT32, DATA_TYPE_STRING, Tensor
from forwardpass.wire import Reason, to_tensor

CLASSIFIER, EMBEDDER, GENERATOR, TEXT = (
    ModelReference(name=name) for name in ("clf", "emb", "gen", "text")
)
IMAGE = np.zeros((1, 4, 4, 1), np.uint8)


@pytest.fixture
def running(repository: Publisher, start_server: StartServer) -> Running:
    repository("clf", classifier())
    repository("emb", embedder())
    repository("gen", generator())
    repository("text", echo(TensorProto.STRING, ["n"]))
    repository("pick", picker())
    return start_server()


def image(array: Any = IMAGE, name: str = "image", **fields: Any) -> PredictRequest:
    return PredictRequest(model=CLASSIFIER, inputs={name: to_tensor(array)}, **fields)


def features(tensor: Tensor) -> EmbedRequest:
    return EmbedRequest(model=EMBEDDER, inputs={"features": tensor})


INVALID = [
    ("no model", PredictRequest(), "no model is named", "model.name"),
    (
        "version 0",
        PredictRequest(model=ModelReference(name="clf", version=0)),
        "versions start at 1",
        "model.version",
    ),
    ("no input", PredictRequest(model=CLASSIFIER), "input 'image' is missing", "inputs"),
    (
        "wrong name",
        image(name="imag"),
        "no input 'imag' (did you mean 'image'?); the model takes 'image'",
        "inputs",
    ),
    (
        "wrong type",
        image(IMAGE.astype(np.float32)),
        "inputs['image'] is float32, but the model takes uint8",
        "inputs.'image'.data_type",
    ),
    (
        "wrong rank",
        image(IMAGE[0]),
        "has shape [4, 4, 1], but the model takes [-1, 4, 4, 1]",
        "inputs.'image'.shape",
    ),
    (
        "wrong extent",
        image(np.zeros((1, 4, 5, 1), np.uint8)),
        "has shape [1, 4, 5, 1], but the model takes [-1, 4, 4, 1]",
        "inputs.'image'.shape",
    ),
    (
        "too many rows",
        image(np.zeros((65, 4, 4, 1), np.uint8)),
        "65 rows, but the model takes at most 64",
        "inputs",
    ),
    (
        "too many images",
        PredictRequest(model=CLASSIFIER, images=[b""] * 65),
        "65 images, but the model takes at most 64",
        "images",
    ),
    ("unknown output", image(outputs=["probabilties"]), "did you mean 'probabilities'?", "outputs"),
    ("output twice", image(outputs=["probabilities"] * 2), "asked for twice", "outputs"),
    ("too many classes", image(top_k=4), "top_k is 4, but the model has 3 classes", "top_k"),
    (
        "given twice",
        image(images=[encode_png(IMAGE[0])]),
        "given twice, as a tensor and as images",
        "images",
    ),
    (
        "no image",
        PredictRequest(model=CLASSIFIER, images=[encode_png(IMAGE[0]), b"GIF89a"]),
        "images[1]: the bytes are neither a JPEG nor a PNG image",
        "images[1]",
    ),
    ("texts", PredictRequest(model=CLASSIFIER, texts=["a"]), "takes no texts", "texts"),
    (
        "too few bytes",
        features(Tensor(data_type=DATA_TYPE_FLOAT32, shape=[1, 4], content=bytes(15))),
        "inputs['features']: float32 of shape [1, 4] takes 16 bytes, got 15",
        "inputs.'features'",
    ),
    (
        "huge claim",
        features(Tensor(data_type=DATA_TYPE_FLOAT32, shape=[2**33, 2**33])),
        "takes 295147905179352825856 bytes, got 0",
        "inputs.'features'",
    ),
    (
        "negative extent",
        features(Tensor(data_type=DATA_TYPE_FLOAT32, shape=[-1, 4])),
        "negative extent",
        "inputs.'features'",
    ),
    (
        "no type",
        features(Tensor(shape=[1, 4], content=bytes(16))),
        "data type 0 is not one of",
        "inputs.'features'",
    ),
    (
        "images for numbers",
        EmbedRequest(model=EMBEDDER, images=[encode_png(IMAGE[0])]),
        "takes no images",
        "images",
    ),
    (
        "unknown embedding",
        EmbedRequest(model=EMBEDDER, output="embeding"),
        "did you mean 'embedding'?",
        "output",
    ),
    (
        "not UTF-8",
        PredictRequest(
            model=TEXT,
            inputs={
                "x": Tensor(data_type=DATA_TYPE_STRING, shape=[1], content=b"\x02\0\0\0\xff\xfe")
            },
        ),
        "not UTF-8, at element 0",
        "inputs.'x'",
    ),
    (
        "refused by the graph",
        PredictRequest(
            model=ModelReference(name="pick"), inputs={"index": to_tensor(np.array([4]))}
        ),
        "the model refuses the values",
        "inputs",
    ),
    ("no samples", GenerateRequest(model=GENERATOR, count=0), "may ask for 1 to 1024", "count"),
    (
        "too many samples",
        GenerateRequest(model=GENERATOR, count=2**32 - 1),
        "4294967295 samples, but a request may ask for 1 to 1024",
        "count",
    ),
    (
        "seed and latents",
        GenerateRequest(model=GENERATOR, seed=1, latents=to_tensor(np.zeros((1, 5), np.float32))),
        "not both",
        "seed",
    ),
    (
        "wrong latents",
        GenerateRequest(model=GENERATOR, latents=to_tensor(np.zeros((1, 4), np.float32))),
        "latents are float32 [1, 4], but the model takes float32 [count, 5]",
        "latents",
    ),
    ("a class", GenerateRequest(model=GENERATOR, class_index=1), "takes none", "class_index"),
    ("a prompt", GenerateRequest(model=GENERATOR, prompt="Once"), "generates no text", "prompt"),
]
METHODS = {PredictRequest: "Predict", EmbedRequest: "Embed", GenerateRequest: "Generate"}


@pytest.mark.parametrize(
    ("request_message", "message", "field"),
    [row[1:] for row in INVALID],
    ids=[row[0] for row in INVALID],
)
def test_a_wrong_request_is_told_what_is_wrong(
    running: Running, request_message: Any, message: str, field: str
) -> None:
    call = getattr(running.inference, METHODS[type(request_message)])
    failure = failure_of(call, request_message)
    assert failure.reason is Reason.INVALID_INPUT
    assert message in failure.message
    assert failure.field == field
    assert len(failure.message.encode()) <= 256
    # The server is none the worse for it.
    assert running.inference.Predict(image()).outputs


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        (ModelReference(name="clff"), "no model 'clff' (did you mean 'clf'?)"),
        (ModelReference(name="../etc"), "no model '../etc'"),
        (ModelReference(name="x" * 10_000), "no model 'xxx"),
        (ModelReference(name="a\n{}"), r"no model 'a\n{}'"),
        (ModelReference(name="clf", version=2), "model 'clf' has no version 2; it has 1"),
        (ModelReference(name="clf", label="stable"), "has no version labelled 'stable'"),
    ],
)
def test_what_is_not_there_is_not_found(
    running: Running, reference: ModelReference, message: str
) -> None:
    failure = failure_of(running.inference.Predict, PredictRequest(model=reference))
    assert failure.reason is Reason.MODEL_NOT_FOUND
    assert message in failure.message
    assert len(failure.message) <= 256
    assert (
        failure_of(running.models.GetModel, GetModelRequest(model=reference)).message
        == failure.message
    )


def test_a_call_that_the_model_cannot_answer_is_a_failed_precondition(running: Running) -> None:
    failure = failure_of(running.inference.Embed, EmbedRequest(model=CLASSIFIER))
    assert failure.reason is Reason.TASK_UNSUPPORTED
    assert failure.message == "model 'clf' has no embedding output; it answers Predict"
    failure = failure_of(running.inference.Generate, GenerateRequest(model=EMBEDDER))
    assert failure.reason is Reason.TASK_UNSUPPORTED
    assert failure.message == "model 'emb' is no generator; it answers Predict, Embed"


@pytest.mark.parametrize("message", [b"\xff\xff\xff", b"\x0b" * 1_000_000, b"\x0a\x02\x0a\x05"])
def test_bytes_that_are_no_message_are_an_invalid_argument(
    running: Running, message: bytes
) -> None:
    call: Any = running.channel.unary_unary("/forwardpass.v1.InferenceService/Predict")
    failure = failure_of(call, message)
    assert failure.reason is Reason.INVALID_INPUT
    assert failure.message == "the bytes are no forwardpass.v1.PredictRequest"


def test_a_message_over_the_limit_is_refused_by_the_transport(
    repository: Publisher, start_server: StartServer
) -> None:
    repository("real", echo(TensorProto.FLOAT, ["n"]))
    running = start_server(max_message_bytes=1 << 16)
    with pytest.raises(grpc.RpcError) as caught:
        running.inference.Predict(
            PredictRequest(
                model=ModelReference(name="real"),
                inputs={"x": to_tensor(np.zeros(1 << 14, np.float32))},
            )
        )
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    fits = PredictRequest(
        model=ModelReference(name="real"), inputs={"x": to_tensor(np.zeros(16_000, np.float32))}
    )
    assert running.inference.Predict(fits).outputs


def test_nan_is_refused_where_the_operator_says_so(
    repository: Publisher, start_server: StartServer
) -> None:
    repository("emb", embedder())
    values = np.array([[1, np.nan, 2, 3]], np.float32)
    assert start_server().inference.Embed(features(to_tensor(values))).embeddings
    strict = start_server(reject_nonfinite=True)
    failure = failure_of(strict.inference.Embed, features(to_tensor(values)))
    assert failure.reason is Reason.INVALID_INPUT
    assert "has a NaN or an infinity" in failure.message
    assert strict.inference.Embed(features(to_tensor(np.nan_to_num(values)))).embeddings


def test_management_and_what_is_unknown_are_unimplemented(running: Running) -> None:
    nope: Any = running.channel.unary_unary("/forwardpass.v1.InferenceService/Nope")
    calls: list[Callable[[], Any]] = [
        lambda: running.models.LoadModel(LoadModelRequest(model=CLASSIFIER)),
        lambda: running.models.UnloadModel(UnloadModelRequest(model=CLASSIFIER)),
        lambda: nope(b""),
    ]
    for call in calls:
        with pytest.raises(grpc.RpcError) as caught:
            call()
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_an_inner_failure_tells_the_request_id_and_nothing_else(
    running: Running, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    from forwardpass.server.onnx.signature import Signature

    def fail(*_: object) -> int:
        raise ValueError("secret /etc/path token=abc")

    monkeypatch.setattr(Signature, "check", fail)
    failure = failure_of(
        running.inference.Predict, image(), metadata=(("x-request-id", "my-request"),)
    )
    assert failure.reason is Reason.INTERNAL
    assert failure.request_id == "my-request"
    assert "secret" not in failure.message
    output = capfd.readouterr()
    assert "secret" in output.out + output.err


def test_calls_beyond_the_limit_are_refused_and_may_come_again(
    repository: Publisher, start_server: StartServer
) -> None:
    repository("clf", classifier())
    running = start_server(max_in_flight=1)
    admission = running.server._admission
    guest = Guest()
    admission.enter(guest, 1)
    failure = failure_of(running.inference.Predict, image())
    assert failure.reason is Reason.QUEUE_FULL
    assert failure.retry_after == pytest.approx(0.1)
    # What is no work for a model is answered all the same.
    assert running.models.ListModels(ListModelsRequest()).models
    admission.leave(guest, 1)
    assert running.inference.Predict(image()).outputs
    # gRPC's own server tells the caller before it tells us.
    assert admission.wait_idle(30)
    assert admission.bytes == 0


def test_a_second_server_on_the_port_refuses_to_start(running: Running) -> None:
    second = Server(
        Settings(
            models=running.server._settings.models,
            port=running.server.port,
            metrics_port=0,
            threads=1,
        )
    )
    with pytest.raises(OSError, match="is another server there"):
        second.start()
    second.stop()
