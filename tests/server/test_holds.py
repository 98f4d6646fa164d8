"""A stream that names a version keeps it: another takes its place for everybody else."""

import queue
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import pytest
from cases.harness import PATIENCE, manage, summaries, unload
from conftest import Running, StartServer
from failures import failure_of
from open_inference.calls import Calls, infer_request
from tiny_models import Publisher, embedder

from forwardpass.v1.inference_service_pb2 import (
    EmbedRequest,
    EmbedStreamRequest,
    PredictRequest,
    PredictStreamRequest,
)
from forwardpass.v1.model_service_pb2 import (
    MODEL_STATE_READY,
    LoadModelRequest,
    ModelReference,
)
from forwardpass.wire import Reason, to_tensor

ROWS = np.arange(8, dtype=np.float32).reshape(2, 4)


class Kind(NamedTuple):
    """A kind of stream: how it is opened, what is sent, and which version an answer is of."""

    open: Callable[[Running, Iterator[Any]], Any]
    request: Callable[[int], Any]
    version: Callable[[Any], int]


def named(version: int) -> ModelReference:
    return ModelReference(name="emb", version=version)


KINDS = {
    "PredictStream": Kind(
        lambda running, sent: running.inference.PredictStream(sent),
        lambda version: PredictStreamRequest(
            request=PredictRequest(model=named(version), inputs={"features": to_tensor(ROWS)})
        ),
        lambda answer: answer.response.model.version,
    ),
    "EmbedStream": Kind(
        lambda running, sent: running.inference.EmbedStream(sent),
        lambda version: EmbedStreamRequest(
            request=EmbedRequest(model=named(version), inputs={"features": to_tensor(ROWS)})
        ),
        lambda answer: answer.response.model.version,
    ),
    "ModelStreamInfer": Kind(
        lambda running, sent: Calls(running.channel).stream(sent),
        lambda version: infer_request(
            "emb", {"features": ROWS}, model_version=str(version)
        ).SerializeToString(),
        lambda answer: int(answer.infer_response.model_version),
    ),
}
kinds = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)


class Talk:
    """A stream on which requests are sent one by one."""

    def __init__(self, kind: Kind, running: Running) -> None:
        self._kind = kind
        self._sent: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.call = kind.open(running, iter(self._sent.get, None))

    def ask(self, version: int) -> int:
        """Returns the version that answers."""
        self._sent.put(self._kind.request(version))
        return self._kind.version(next(self.call))

    def end(self) -> None:
        self._sent.put(None)
        assert not list(self.call)


@contextmanager
def talk(kind: Kind, running: Running) -> Iterator[Talk]:
    stream = Talk(kind, running)
    try:
        yield stream
    finally:
        stream.call.cancel()


def publish(running: Running, repository: Publisher, version: int) -> None:
    """Has a version take the place of the one before."""
    repository("emb", embedder(), version)
    with manage(running) as stub:
        stub.LoadModel(LoadModelRequest(model=ModelReference(name="emb")), timeout=PATIENCE)


def ready(running: Running) -> list[int]:
    return sorted(
        number
        for (_, number), summary in summaries(running).items()
        if summary.state == MODEL_STATE_READY
    )


def wait_until_ready_are(running: Running, numbers: list[int]) -> None:
    for _ in range(10_000):
        if ready(running) == numbers:
            return
    raise AssertionError(ready(running))


@kinds
def test_a_version_serves_as_long_as_a_stream_names_it(
    kind: Kind, repository: Publisher, start_server: StartServer
) -> None:
    repository("emb", embedder())
    running = start_server(management_port=0)
    with talk(kind, running) as stream:
        assert stream.ask(1) == 1
        publish(running, repository, 2)
        assert ready(running) == [1, 2]
        reason = summaries(running)["emb", 1].state_reason
        assert reason == "another version is served; this one as long as a stream names it"
        # It answers the stream, also when its requests are known, and whoever else names it.
        assert [stream.ask(1) for _ in range(3)] == [1, 1, 1]
        assert (
            running.inference.Embed(
                EmbedRequest(model=named(1), inputs={"features": to_tensor(ROWS)})
            ).model.version
            == 1
        )
        stream.end()
    wait_until_ready_are(running, [2])
    failure = failure_of(
        running.inference.Embed,
        EmbedRequest(model=named(1), inputs={"features": to_tensor(ROWS)}),
    )
    assert failure.reason is Reason.MODEL_NOT_FOUND


@kinds
def test_a_stream_that_goes_on_to_another_version_lets_the_first_go(
    kind: Kind, repository: Publisher, start_server: StartServer
) -> None:
    repository("emb", embedder())
    running = start_server(management_port=0)
    with talk(kind, running) as stream:
        # Twice, so that the form of its requests is known.
        assert [stream.ask(1), stream.ask(1)] == [1, 1]
        publish(running, repository, 2)
        assert stream.ask(2) == 2
        wait_until_ready_are(running, [2])


@kinds
def test_a_stream_that_is_lost_lets_its_version_go(
    kind: Kind, repository: Publisher, start_server: StartServer
) -> None:
    repository("emb", embedder())
    running = start_server(management_port=0)
    with talk(kind, running) as stream:
        assert stream.ask(1) == 1
        publish(running, repository, 2)
        assert ready(running) == [1, 2]
        stream.call.cancel()
        wait_until_ready_are(running, [2])


def test_one_version_alone_is_kept_the_newest(
    repository: Publisher, start_server: StartServer
) -> None:
    repository("emb", embedder())
    running = start_server(management_port=0)
    kind = KINDS["EmbedStream"]
    with talk(kind, running) as first, talk(kind, running) as second:
        assert first.ask(1) == 1
        publish(running, repository, 2)
        assert second.ask(2) == 2
        publish(running, repository, 3)
        assert ready(running) == [2, 3]
        assert second.ask(2) == 2
        second.end()
        wait_until_ready_are(running, [3])


def test_who_unloads_a_version_does_so(repository: Publisher, start_server: StartServer) -> None:
    repository("emb", embedder())
    running = start_server(management_port=0)
    with talk(KINDS["EmbedStream"], running) as stream:
        assert stream.ask(1) == 1
        publish(running, repository, 2)
        with manage(running) as stub:
            unload(stub, "emb", 1)
        assert ready(running) == [2]
        stream.end()
    assert ready(running) == [2]


def test_what_is_wanted_again_outlasts_its_streams(
    repository: Publisher, start_server: StartServer
) -> None:
    repository("emb", embedder())
    running = start_server(management_port=0)
    with talk(KINDS["EmbedStream"], running) as stream:
        assert stream.ask(1) == 1
        publish(running, repository, 2)
        (repository.root / "emb" / "labels.json").write_text('{"stable": 1}')
        running.server._repository.reconcile(settle=False)
        assert not summaries(running)["emb", 1].state_reason
        stream.end()
    # The last call of a stream has ended; a release, if there were one, comes before this.
    publish(running, repository, 3)
    assert ready(running) == [1, 3]


def test_a_stream_that_names_no_version_keeps_none(
    repository: Publisher, start_server: StartServer
) -> None:
    repository("emb", embedder())
    running = start_server(management_port=0)
    sent: queue.SimpleQueue[Any] = queue.SimpleQueue()
    call: Any = running.inference.EmbedStream(iter(sent.get, None))
    request = EmbedRequest(model=ModelReference(name="emb"), inputs={"features": to_tensor(ROWS)})
    sent.put(EmbedStreamRequest(request=request))
    assert next(call).response.model.version == 1
    publish(running, repository, 2)
    assert ready(running) == [2]
    sent.put(EmbedStreamRequest(request=request))
    assert next(call).response.model.version == 2
    sent.put(None)
    assert not list(call)
