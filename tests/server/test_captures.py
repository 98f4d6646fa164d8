"""Captured runs, here on the CPU: the same buffers, thread and padding as with CUDA graphs.

The CPU has nothing to replay, so each run is computed; tests/gpu has the rest.
"""

import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
import pytest
from onnx import TensorProto
from tiny_models import EMBEDDER_WEIGHTS, Publisher, TinyModel, echo, embedder, picker, stepper

from forwardpass.server.errors import InvalidInput, RunError
from forwardpass.server.loading.loaded import Loaded
from forwardpass.server.loading.options import LoadOptions
from forwardpass.server.loading.padding import padded
from forwardpass.server.onnx.providers import CPU, Provider
from forwardpass.server.onnx.session import Session, SessionError
from forwardpass.server.repository.repository import Repository
from forwardpass.server.scheduling.executor import ThreadExecutor
from forwardpass.v1.model_service_pb2 import ModelReference
from forwardpass.wire import Array

CAPTURING = (Provider(CPU, captures=True),)
STEP = {"x": 1, "total": 10}


def capturing(tiny: TinyModel) -> Session:
    return Session(tiny.graph.SerializeToString(), {}, 1, CAPTURING)


def features(rows: int, seed: int = 0) -> dict[str, Array]:
    return {"features": np.random.default_rng(seed).random((rows, 4), np.float32)}


@contextmanager
def loaded_from(repository: Publisher, name: str) -> Iterator[Loaded]:
    """Loads every model as a server would that captures."""
    options = LoadOptions(
        threads=1, cores=1, max_queued=8, manifest_required=False, sandbox=None, providers=CAPTURING
    )
    loading = Repository(repository.root, options)
    loading.reconcile(settle=False)
    loaded = loading.find(ModelReference(name=name))
    yield loaded
    loaded.leases.leave()
    loading.close()


def captured_rows(loaded: Loaded) -> list[int]:
    bound = loaded.session._bound
    assert bound is not None
    return [shape[0] for shapes in bound for _, _, shape in shapes]


def test_answers_are_those_of_runs_that_are_not_captured() -> None:
    session = capturing(stepper())
    plain = Session(stepper().graph.SerializeToString(), {}, 1)
    given = [
        {name: np.full((rows, 1), rows + offset, np.float32) for name, offset in STEP.items()}
        for rows in (1, 2, 3)
    ]
    session.capture(given[0])
    session.capture(given[1])
    for inputs in (*given, *given):
        for names in (["next", "y"], ["y"]):
            got, expected = session.run(names, inputs), plain.run(names, inputs)
            np.testing.assert_array_equal(got, expected)


def test_an_answer_stays_what_it_is_when_the_buffers_are_used_again() -> None:
    session = capturing(embedder())
    session.capture(features(2))
    first = session.run(["embedding"], features(2, seed=1))[0]
    session.run(["embedding"], features(2, seed=2))
    np.testing.assert_allclose(first, features(2, seed=1)["features"] @ EMBEDDER_WEIGHTS, rtol=1e-6)


def test_inputs_need_not_be_contiguous() -> None:
    session = capturing(embedder())
    strided = {"features": np.random.default_rng(0).random((4, 2), np.float32).T}
    session.capture(strided)
    np.testing.assert_allclose(
        session.run(["embedding"], strided)[0],
        strided["features"] @ EMBEDDER_WEIGHTS,
        rtol=1e-6,
    )


def test_runs_from_many_threads_do_not_meet_in_the_buffers() -> None:
    session = capturing(embedder())
    session.capture(features(8))

    def agrees(seed: int) -> bool:
        inputs = features(8, seed)
        answer = session.run(["embedding"], inputs)[0]
        return np.allclose(answer, inputs["features"] @ EMBEDDER_WEIGHTS, rtol=1e-5)

    with ThreadPoolExecutor(8) as callers:
        assert all(callers.map(agrees, range(400)))


def test_each_shape_has_a_graph_of_its_own_and_is_captured_once() -> None:
    session = capturing(embedder())
    for rows in (1, 2, 1, 4, 2):
        session.capture(features(rows))
    assert session._bound is not None
    # 0 is what ONNX Runtime captures by itself.
    assert [run.graph for run in session._bound.values()] == [1, 2, 3]


@pytest.mark.parametrize("captured", [True, False])
def test_a_value_that_the_graph_refuses_is_the_caller_s_fault(captured: bool) -> None:
    session = capturing(picker())
    if captured:
        session.capture({"index": np.zeros(1, np.int64)})
    with pytest.raises(InvalidInput, match="the model refuses the values"):
        session.run(["value"], {"index": np.array([7])})
    assert session.run(["value"], {"index": np.array([3])})[0] == [3]


def test_a_run_can_be_stopped() -> None:
    session = capturing(embedder())
    session.capture(features(1))
    with pytest.raises(RunError):
        session.run(["embedding"], features(1), lambda stop: stop())
    assert session.run(["embedding"], features(1))[0].shape == (1, 3)


@pytest.mark.parametrize("kind", [TensorProto.STRING, TensorProto.BFLOAT16])
def test_what_cannot_be_captured_is_refused_with_its_name(kind: int) -> None:
    with pytest.raises(SessionError, match=r"'x' is tensor.*without cuda_graph it serves"):
        capturing(echo(kind, ["n"]))


def test_inputs_of_a_wrong_shape_cannot_be_captured() -> None:
    with pytest.raises(SessionError, match=r"a run of it cannot be captured: .*features"):
        capturing(embedder()).capture({"features": np.zeros((1, 5), np.float32)})


def test_closing_frees_the_graph_and_its_buffers() -> None:
    session = capturing(embedder())
    session.capture(features(2))
    graph = weakref.ref(session._session)
    session.close()
    assert graph() is None


def test_a_model_is_captured_at_the_sizes_that_were_measured(repository: Publisher) -> None:
    repository("emb", embedder())
    with loaded_from(repository, "emb") as loaded:
        sizes = [point.rows for point in loaded.curve]
        assert sizes[:2] == [1, 2]
        assert captured_rows(loaded) == sizes
        inputs = features(3)
        assert isinstance(loaded.executor, ThreadExecutor)
        answer = loaded.executor._run(["embedding"], inputs, lambda _: None)[0]
        np.testing.assert_allclose(answer, inputs["features"] @ EMBEDDER_WEIGHTS, rtol=1e-6)
    assert not hasattr(loaded.session, "_session")


def test_a_model_without_rows_is_captured_at_the_shapes_of_its_warm_up(
    repository: Publisher,
) -> None:
    folder = repository("echo", echo(TensorProto.FLOAT, [2, "width"])).parent
    (folder / "config.pbtxt").write_text(
        'model_warmup { name: "w" count: 1 inputs { key: "x" value '
        "{ data_type: TYPE_FP32 dims: [ 2, 7 ] zero_data: true } } }"
    )
    with loaded_from(repository, "echo") as loaded:
        assert captured_rows(loaded) == [2]
        assert isinstance(loaded.executor, ThreadExecutor)
        for width in (7, 5):
            given = {"x": np.arange(2 * width, dtype=np.float32).reshape(2, width)}
            answer = loaded.executor._run(["y"], given, lambda _: None)[0]
            np.testing.assert_array_equal(answer, given["x"])


def test_rows_are_filled_up_to_the_next_size_with_the_last_one() -> None:
    seen: list[Array] = []

    def run(
        outputs: Sequence[str],
        inputs: Mapping[str, Array],
        on_begin: Callable[[Callable[[], None]], None] | None,
    ) -> list[Array]:
        seen.append(inputs["x"])
        return [inputs[name] * 2 for name in outputs]

    run_padded = padded(run, [1, 2, 4])
    for rows, size in ((1, 1), (2, 2), (3, 4), (4, 4), (5, 5)):
        given = np.arange(rows) + 5
        (answer,) = run_padded(["x"], {"x": given}, lambda _: None)
        np.testing.assert_array_equal(answer, given * 2)
        np.testing.assert_array_equal(seen[-1], [*given, *[given[-1]] * (size - rows)])
