"""Models on a GPU: the same answers as numpy's, with every option, captured or not."""

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from conftest import StartServer
from onnx import TensorProto, helper
from tiny_models import (
    EMBEDDER_WEIGHTS,
    Publisher,
    TinyModel,
    busy,
    classifier,
    echo,
    embedder,
    generator,
    model,
    stepper,
)

from forwardpass.server.errors import RunError
from forwardpass.server.onnx.providers import CPU, CUDA, CudaOptions, ProviderError, choose
from forwardpass.server.onnx.session import Session, SessionError, check_providers
from forwardpass.v1 import model_service_pb2
from forwardpass.v1.inference_service_pb2 import EmbedRequest
from forwardpass.v1.model_service_pb2 import GetModelRequest, ListModelsRequest, ModelReference
from forwardpass.wire import Array, from_tensor, to_tensor

pytestmark = pytest.mark.gpu
PLAIN = CudaOptions(
    0,
    0,
    "kSameAsRequested",
    "HEURISTIC",
    do_copy_in_default_stream=True,
    use_tf32=False,
    enable_cuda_graph=False,
)
CAPTURED = replace(PLAIN, enable_cuda_graph=True)
both = pytest.mark.parametrize("options", [PLAIN, CAPTURED], ids=["plain", "captured"])


def on_gpu(
    tiny: TinyModel, options: CudaOptions, names: Sequence[str] = ("cuda", "cpu")
) -> Session:
    providers = choose(names, options)
    check_providers(providers)
    return Session(tiny.graph.SerializeToString(), {}, 1, providers)


def product(kind: int, size: int = 64) -> TinyModel:
    """The product of its input with itself, in one element type."""
    shape = [size, size]
    return TinyModel(
        model(
            [helper.make_node("MatMul", ["x", "x"], ["y"])],
            [helper.make_tensor_value_info("x", kind, shape)],
            [helper.make_tensor_value_info("y", kind, shape)],
        )
    )


def features(rows: int, seed: int = 0) -> dict[str, Array]:
    return {"features": np.random.default_rng(seed).random((rows, 4), np.float32)}


@pytest.mark.parametrize(
    "options",
    [
        PLAIN,
        CAPTURED,
        replace(PLAIN, gpu_mem_limit=1 << 30),
        replace(PLAIN, arena_extend_strategy="kNextPowerOfTwo"),
        replace(PLAIN, cudnn_conv_algo_search="EXHAUSTIVE"),
        replace(PLAIN, cudnn_conv_algo_search="DEFAULT"),
        replace(PLAIN, do_copy_in_default_stream=False),
        replace(PLAIN, use_tf32=True),
    ],
)
def test_every_option_is_taken_with_its_value(options: CudaOptions) -> None:
    # The session compares what it was given with what ONNX Runtime says is in force.
    session = on_gpu(embedder(), options)
    assert list(session.providers)[:2] == [CUDA, CPU]
    (answer,) = session.run(["embedding"], features(3))
    np.testing.assert_allclose(answer, features(3)["features"] @ EMBEDDER_WEIGHTS, rtol=1e-2)


@both
def test_answers_of_every_size_are_numpy_s(options: CudaOptions) -> None:
    session = on_gpu(embedder(), options)
    for rows in (1, 2, 4):
        session.capture(features(rows))
    for seed, rows in enumerate((1, 4, 3, 2, 1, 4, 5)):
        inputs = features(rows, seed)
        (answer,) = session.run(["embedding"], inputs)
        np.testing.assert_allclose(answer, inputs["features"] @ EMBEDDER_WEIGHTS, rtol=1e-5)


@both
def test_threads_and_models_do_not_meet(options: CudaOptions) -> None:
    sessions = [on_gpu(embedder(), options) for _ in range(2)]
    for session in sessions:
        session.capture(features(8))

    def agrees(seed: int) -> bool:
        inputs = features(8, seed)
        (answer,) = sessions[seed % 2].run(["embedding"], inputs)
        return np.allclose(answer, inputs["features"] @ EMBEDDER_WEIGHTS, rtol=1e-5)

    with ThreadPoolExecutor(8) as callers:
        assert all(callers.map(agrees, range(400)))


def test_a_model_is_loaded_and_captured_while_another_answers() -> None:
    serving = on_gpu(embedder(), CAPTURED)
    serving.capture(features(4))
    done = threading.Event()

    def answer_all_along() -> int:
        count = 0
        while not done.is_set() or not count:
            inputs = features(4, count)
            (answer,) = serving.run(["embedding"], inputs)
            np.testing.assert_allclose(answer, inputs["features"] @ EMBEDDER_WEIGHTS, rtol=1e-5)
            count += 1
        return count

    with ThreadPoolExecutor(1) as callers:
        counted = callers.submit(answer_all_along)
        try:
            for _ in range(10):
                other = on_gpu(embedder(), CAPTURED)
                for rows in (1, 2, 4, 8):
                    other.capture(features(rows))
                other.close()
        finally:
            done.set()
        assert counted.result() > 0


@both
def test_float16_is_computed_in_float16(options: CudaOptions) -> None:
    session = on_gpu(product(TensorProto.FLOAT16), options, ["cuda"])
    x = np.random.default_rng(0).random((64, 64)).astype(np.float16)
    session.capture({"x": x})
    (answer,) = session.run(["y"], {"x": x})
    assert answer.dtype == np.float16
    np.testing.assert_allclose(answer, x.astype(np.float32) @ x.astype(np.float32), rtol=5e-3)


def test_float32_is_not_rounded_unless_asked() -> None:
    x = np.random.default_rng(0).random((64, 64), np.float32)
    (answer,) = on_gpu(product(TensorProto.FLOAT), PLAIN).run(["y"], {"x": x})
    np.testing.assert_allclose(answer, x.astype(np.float64) @ x.astype(np.float64), rtol=1e-5)


def test_the_arena_s_limit_holds() -> None:
    session = on_gpu(product(TensorProto.FLOAT, 4096), replace(PLAIN, gpu_mem_limit=16 << 20))
    with pytest.raises(RunError):
        session.run(["y"], {"x": np.zeros((4096, 4096), np.float32)})


def test_control_flow_cannot_be_captured() -> None:
    with pytest.raises(SessionError, match="CUDA Graph"):
        on_gpu(busy(), CAPTURED)


def test_without_the_cpu_what_cuda_lacks_fails() -> None:
    text = echo(TensorProto.STRING, ["n"])
    assert on_gpu(text, PLAIN).run(["y"], {"x": np.array(["a"], object)})[0] == ["a"]
    with pytest.raises(SessionError):
        on_gpu(text, PLAIN, ["cuda"])


def test_a_gpu_that_is_not_there_is_an_error() -> None:
    with pytest.raises(ProviderError):
        check_providers(choose(["cuda", "cpu"], replace(PLAIN, device_id=99)))


@pytest.mark.parametrize("captured", [False, True])
def test_a_server_passes_its_golden_checks_and_answers(
    repository: Publisher, start_server: StartServer, captured: bool
) -> None:
    tiny = {"clf": classifier(), "emb": embedder(), "gen": generator(), "step": stepper()}
    for name, made in tiny.items():
        repository(name, made)
    running = start_server(providers=("cuda", "cpu"), cuda_graph=captured)
    listed = running.models.ListModels(ListModelsRequest()).models
    ready = model_service_pb2.MODEL_STATE_READY
    assert {m.model.name: m.state for m in listed} == dict.fromkeys(tiny, ready)
    facts = running.models.GetModel(GetModelRequest(model=ModelReference(name="emb"))).model
    assert list(facts.providers) == [CUDA, CPU]
    for rows in (1, 3, 8):
        inputs = features(rows, rows)["features"]
        answer = running.inference.Embed(
            EmbedRequest(model=ModelReference(name="emb"), inputs={"features": to_tensor(inputs)})
        )
        np.testing.assert_allclose(
            from_tensor(answer.embeddings), inputs @ EMBEDDER_WEIGHTS, rtol=1e-5
        )
