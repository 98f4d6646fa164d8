"""The scheduling policy of a server's threads: another while its transport is saturated."""

import os
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from hpack import Encoder
from http2 import PREFACE, read_frames
from hyperframe.frame import DataFrame, HeadersFrame, SettingsFrame
from server.test_process import ServerProcess, serving
from tiny_models import Publisher, classifier

from forwardpass.client import Client
from forwardpass.v1.inference_service_pb2 import PredictRequest
from forwardpass.v1.model_service_pb2 import ModelReference
from forwardpass.wire import to_tensor

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has these policies")

PATIENCE = 60
CALLS = 250
IMAGE = np.zeros((1, 4, 4, 1), np.uint8)
REQUEST = PredictRequest(model=ModelReference(name="clf"), inputs={"image": to_tensor(IMAGE)})
HEADERS = [
    (":method", "POST"),
    (":scheme", "http"),
    (":path", "/forwardpass.v1.InferenceService/Predict"),
    (":authority", "localhost"),
    ("te", "trailers"),
    ("content-type", "application/grpc"),
]


@contextmanager
def started(repository: Path, *flags: str, policy: int = os.SCHED_OTHER) -> Iterator[ServerProcess]:
    """Starts a server under a policy, on one core, where a small model is small on any machine."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    os.sched_setscheduler(0, policy, os.sched_param(0))
    try:
        with serving(repository, *flags) as server:
            server.wait_for("ready")
            yield server
    finally:
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
        os.sched_setaffinity(0, cores)


def policies(server: ServerProcess) -> set[int]:
    threads = Path(f"/proc/{server.pid}/task").iterdir()
    return {os.sched_getscheduler(int(thread.name)) for thread in threads}


def give_threads(repository: Publisher, name: str) -> None:
    """Has a model that is yet to come run on threads of its own."""
    folder = repository.root / name
    folder.mkdir()
    (folder / "config.pbtxt").write_text("instance_group { count: 2 }")


def burst(port: int) -> None:
    """Makes many calls on a connection of their own, which go out as one piece."""
    encoder = Encoder()
    message = REQUEST.SerializeToString()
    body = b"\0" + len(message).to_bytes(4, "big") + message
    frames = [PREFACE, SettingsFrame(0).serialize(), SettingsFrame(0, flags=["ACK"]).serialize()]
    for stream in range(1, 2 * CALLS, 2):
        block = encoder.encode(HEADERS)
        frames.append(HeadersFrame(stream, block, flags=["END_HEADERS"]).serialize())
        frames.append(DataFrame(stream, body, flags=["END_STREAM"]).serialize())
    with socket.create_connection(("127.0.0.1", port), PATIENCE) as connection:
        connection.sendall(b"".join(frames))
        ended = 0
        for frame in read_frames(connection):
            ended += isinstance(frame, HeadersFrame) and "END_STREAM" in frame.flags
            if ended == CALLS:
                return
    raise AssertionError(f"the server hung up after {ended} calls")


def saturate(server: ServerProcess) -> None:
    """Makes calls until the server's threads leave one another alone."""
    until = time.monotonic() + PATIENCE
    while policies(server) != {os.SCHED_BATCH}:
        assert time.monotonic() < until
        burst(server.port)


def call_in_turn(server: ServerProcess) -> None:
    """Makes one call after the other until the server's threads interrupt one another."""
    until = time.monotonic() + PATIENCE
    with Client(f"127.0.0.1:{server.port}", timeout=PATIENCE) as client:
        while policies(server) != {os.SCHED_OTHER}:
            assert time.monotonic() < until
            for _ in range(50):
                client.predict("clf", {"image": IMAGE})


def test_t139_threads_interrupt_one_another_unless_the_transport_is_saturated(
    repository: Publisher,
) -> None:
    repository("clf", classifier())
    with started(repository.root) as server:
        assert policies(server) == {os.SCHED_OTHER}
        for _ in range(2):
            saturate(server)
            call_in_turn(server)


def test_t139_they_do_where_one_of_the_models_has_threads(repository: Publisher) -> None:
    repository("clf", classifier())
    with started(repository.root, "--watch") as server:
        saturate(server)
        give_threads(repository, "own")
        repository("own", classifier())
        assert server.wait_for("model_ready")["model"] == "own"
        assert policies(server) == {os.SCHED_OTHER}


@pytest.mark.parametrize(("name", "policy"), [("batch", os.SCHED_BATCH), ("other", os.SCHED_OTHER)])
def test_t139_a_setting_fixes_it(repository: Publisher, name: str, policy: int) -> None:
    repository("clf", classifier())
    with started(repository.root, "--scheduling-policy", name) as server:
        assert policies(server) == {policy}
        for _ in range(3):
            burst(server.port)
        assert policies(server) == {policy}


def test_what_the_operator_has_chosen_stays(repository: Publisher) -> None:
    repository("clf", classifier())
    with started(repository.root, policy=os.SCHED_IDLE) as server:
        assert policies(server) == {os.SCHED_IDLE}


def test_each_of_several_workers_chooses(repository: Publisher) -> None:
    repository("clf", classifier())
    flags = ("--workers", "2", "--scheduling-policy", "batch")
    with started(repository.root, *flags) as server:
        threads = Path(f"/proc/{server.pid}/task").glob("*/children")
        workers = [int(worker) for thread in threads for worker in thread.read_text().split()]
        assert [os.sched_getscheduler(worker) for worker in workers] == [os.SCHED_BATCH] * 2
