"""An unmodified tritonclient, in this very process: its messages and ours do not meet."""

import asyncio
import queue
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from conftest import Running
from tiny_models import CLASSIFIER_WEIGHTS, EMBEDDER_WEIGHTS, LABELS, softmax

from .calls import FEATURES
from .conftest import A, B, Hold

triton = pytest.importorskip("tritonclient.grpc")
triton_aio = pytest.importorskip("tritonclient.grpc.aio")

IMAGES = np.random.default_rng(3).integers(0, 256, (6, 4, 4, 1), np.uint8)
EXPECTED = FEATURES @ EMBEDDER_WEIGHTS


@pytest.fixture(scope="module")
def client(running: Running) -> Iterator[Any]:
    with triton.InferenceServerClient(running.address) as client:
        yield client


def tensor(name: str, array: Any, module: Any = triton) -> Any:
    kinds = {"float32": "FP32", "float16": "FP16", "uint8": "UINT8", "object": "BYTES"}
    made = module.InferInput(name, list(array.shape), kinds.get(str(array.dtype), "INT64"))
    made.set_data_from_numpy(array)
    return made


def features(array: Any = FEATURES) -> list[Any]:
    return [tensor("features", array)]


def test_health_and_metadata(client: Any) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("emb")
    assert client.is_model_ready("emb", "1")
    metadata = client.get_server_metadata(as_json=True)
    assert metadata["name"] == "forwardpass"
    assert "statistics" in metadata["extensions"]
    model = client.get_model_metadata("emb")
    assert (model.platform, model.versions) == ("onnxruntime_onnx", ["1"])
    assert [int(extent) for extent in model.inputs[0].shape] == [-1, 4]


def test_configuration_statistics_and_index(client: Any) -> None:
    config = client.get_model_config("clf").config
    assert config.max_batch_size == 64
    assert '"description"' in config.parameters["forwardpass.card"].string_value
    client.infer("emb", features())
    statistics = client.get_inference_statistics("emb").model_stats[0]
    assert statistics.inference_stats.success.count > 0
    names = [entry.name for entry in client.get_model_repository_index().models]
    assert {"emb", "clf"} <= set(names)
    with pytest.raises(triton.InferenceServerException) as caught:
        client.load_model("emb")
    assert caught.value.status() == "StatusCode.UNIMPLEMENTED"


@pytest.mark.parametrize("compression", [None, "gzip", "deflate"])
def test_infer(client: Any, compression: str | None) -> None:
    result = client.infer("emb", features(), request_id="mine", compression_algorithm=compression)
    assert result.as_numpy("embedding") == pytest.approx(EXPECTED, abs=1e-5)
    response = result.get_response()
    assert (response.id, response.model_version) == ("mine", "1")


def test_infer_with_everything_that_may_be_asked(client: Any) -> None:
    result = client.infer(
        "add",
        [tensor("a", A), tensor("b", B)],
        model_version="1",
        outputs=[triton.InferRequestedOutput("difference")],
        priority=3,
        timeout=10_000_000,
        client_timeout=30,
        parameters={"my_own": "x"},
    )
    assert (result.as_numpy("difference") == A - B).all()
    assert result.as_numpy("sum") is None


def test_strings_and_halves(client: Any) -> None:
    texts = np.array(["", "ünïcödé 🙂".encode(), b"a\0b"], object)
    texts[0] = b""
    result = client.infer("text", [tensor("x", texts)])
    assert result.as_numpy("y").tolist() == texts.tolist()
    halves = np.array([0.5, -65504, np.inf], np.float16)
    result = client.infer("half", [tensor("x", halves)])
    assert result.as_numpy("y").tobytes() == halves.tobytes()


def test_classification(client: Any) -> None:
    outputs = [triton.InferRequestedOutput("probabilities", class_count=2)]
    result = client.infer("clf", [tensor("image", IMAGES)], outputs=outputs)
    expected = softmax(IMAGES.reshape(6, 16) / np.float32(255) @ CLASSIFIER_WEIGHTS)
    texts = result.as_numpy("probabilities")
    assert texts.shape == (6, 2)
    for row, (first, _) in zip(expected, texts, strict=True):
        value, index, label = first.decode().split(":")
        assert (int(index), label) == (row.argmax(), LABELS[row.argmax()])
        assert float(value) == pytest.approx(row.max(), abs=2e-6)


def test_async_infer_calls_back(client: Any) -> None:
    results: queue.Queue[Any] = queue.Queue()
    client.async_infer("emb", features(), lambda result, error: results.put((result, error)))
    result, error = results.get(timeout=30)
    assert error is None
    assert result.as_numpy("embedding") == pytest.approx(EXPECTED, abs=1e-5)


@pytest.mark.parametrize(
    ("model", "inputs", "status", "message"),
    [
        ("embb", FEATURES, "NOT_FOUND", "no model 'embb' (did you mean 'emb'?)"),
        ("emb", FEATURES[:, :3], "INVALID_ARGUMENT", "but the model takes [-1, 4]"),
        ("emb", FEATURES.astype(np.float16), "INVALID_ARGUMENT", "is float16, but"),
    ],
)
def test_errors_have_triton_s_codes(
    client: Any, model: str, inputs: Any, status: str, message: str
) -> None:
    with pytest.raises(triton.InferenceServerException) as caught:
        client.infer(model, features(inputs))
    assert caught.value.status() == f"StatusCode.{status}"
    assert message in caught.value.message()


def test_sequences_and_shared_memory_are_refused(client: Any) -> None:
    with pytest.raises(triton.InferenceServerException, match="sequences are not supported"):
        client.infer("emb", features(), sequence_id=7, sequence_start=True)
    shared = triton.InferInput("features", [2, 4], "FP32")
    shared.set_shared_memory("region", 32)
    with pytest.raises(triton.InferenceServerException, match="shared memory is not supported"):
        client.infer("emb", [shared])
    with pytest.raises(triton.InferenceServerException) as caught:
        client.get_system_shared_memory_status()
    assert caught.value.status() == "StatusCode.UNIMPLEMENTED"


def test_client_timeout_is_the_deadline(hold: Hold, repository: Any, start_server: Any) -> None:
    from tiny_models import embedder

    repository("emb", embedder())
    running = start_server()
    hold.hold()
    with triton.InferenceServerClient(running.address) as client:
        with pytest.raises(triton.InferenceServerException) as caught:
            client.infer("emb", features(), client_timeout=0.2)
        assert caught.value.status() == "StatusCode.DEADLINE_EXCEEDED"
        hold.release.set()
        assert client.infer("emb", features()).as_numpy("embedding").shape == (2, 3)


@pytest.mark.parametrize("final", [False, True])
def test_a_stream_with_a_bad_request_among_good_ones(client: Any, final: bool) -> None:
    results: queue.Queue[Any] = queue.Queue()
    client.start_stream(lambda result, error: results.put((result, error)))
    try:
        for name in ("0", "1", "bad", "3"):
            array = FEATURES[:, :3] if name == "bad" else FEATURES
            client.async_stream_infer(
                "emb", features(array), request_id=name, enable_empty_final_response=final
            )
        for name in ("0", "1", "bad", "3"):
            result, error = results.get(timeout=30)
            if name == "bad":
                assert result is None
                assert "has shape [2, 3], but the model takes [-1, 4]" in error.message()
                continue
            assert error is None
            response = result.get_response()
            assert response.id == name
            assert response.parameters["triton_final_response"].bool_param
            assert result.as_numpy("embedding") == pytest.approx(EXPECTED, abs=1e-5)
    finally:
        client.stop_stream()


def test_the_asyncio_client(running: Running) -> None:
    async def talk() -> None:
        async with triton_aio.InferenceServerClient(running.address) as client:
            assert await client.is_server_live()
            assert await client.is_server_ready()
            assert await client.is_model_ready("emb")
            assert (await client.get_model_metadata("emb")).name == "emb"
            assert (await client.get_model_config("emb")).config.backend == "onnxruntime"
            assert (await client.get_inference_statistics("emb")).model_stats
            assert (await client.get_model_repository_index()).models
            inputs = [tensor("features", FEATURES, triton_aio)]
            found = await asyncio.gather(*(client.infer("emb", inputs) for _ in range(8)))
            for result in found:
                assert result.as_numpy("embedding") == pytest.approx(EXPECTED, abs=1e-5)

            async def requests() -> Any:
                for name in ("a", "emb", "b"):
                    model = "emb" if name != "emb" else "embb"
                    yield {"model_name": model, "inputs": inputs, "request_id": name}

            answers = [answer async for answer in client.stream_infer(requests())]
            assert [error is None for _, error in answers] == [True, False, True]
            assert [result.get_response().id for result, _ in answers if result] == ["a", "b"]

    asyncio.run(talk())
