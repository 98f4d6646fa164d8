"""Callers who have nothing to do with an attack, and who check every number that they are told."""

import statistics
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
import numpy as np
from onnx import TensorProto
from tiny_models import EMBEDDER_WEIGHTS, Publisher, echo, embedder

from forwardpass.client import Client, ForwardpassError
from forwardpass.v1.inference_service_pb2 import EmbedRequest, PredictRequest
from forwardpass.v1.inference_service_pb2_grpc import InferenceServiceStub
from forwardpass.v1.model_service_pb2 import ModelReference
from forwardpass.wire import from_tensor, to_tensor

PATIENCE = 30
# What gRPC says of a call whose connection was gone as it was written to it.
_WRITTEN_LATE = ("sendmsg: Broken pipe", "in-progress write")


def publish_what_they_ask(publish: Publisher) -> None:
    """Publishes the two models that callers call."""
    publish("echo", echo(TensorProto.FLOAT, ["n"]))
    publish("emb", embedder())


@dataclass
class Caller:
    """Asks for a little, again and again, and notes what became of each call.

    Attributes:
        seconds: How long each right answer took.
        wrong: The answers that were not.
        lost: What it was told instead of an answer.
    """

    address: str
    seconds: list[float] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)

    @contextmanager
    def asking(self) -> Iterator[None]:
        """Has it ask while inside."""
        over = threading.Event()
        thread = threading.Thread(target=self._ask, args=(over,))
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    @property
    def p99(self) -> float:
        """The seconds that 99 of 100 answers took at most."""
        return statistics.quantiles(self.seconds, n=100)[-1]

    def assert_well(self) -> None:
        """Fails unless it got every answer, and each was right."""
        assert not self.wrong
        assert not self.lost, self.lost[:3]
        assert self.seconds

    def _ask(self, over: threading.Event) -> None:
        options = [("grpc.use_local_subchannel_pool", 1)]
        with grpc.insecure_channel(self.address, options) as channel:
            stub: Any = InferenceServiceStub(channel)
            number = 0
            while not over.wait(0.02):
                begun = time.monotonic()
                try:
                    is_right = _asks(stub, number)
                except grpc.RpcError as error:
                    self.lost.append(str(error))
                else:
                    if is_right:
                        self.seconds.append(time.monotonic() - begun)
                    else:
                        self.wrong.append(f"call {number}")
                number += 1


def _asks(stub: Any, number: int) -> bool:
    """Makes a call that no other is like; whether its answer is right."""
    if number % 2:
        features = np.array([[number, 1, -number, 0.5]], np.float32)
        embed = EmbedRequest(
            model=ModelReference(name="emb"), inputs={"features": to_tensor(features)}
        )
        vectors = from_tensor(stub.Embed(embed, timeout=PATIENCE).embeddings)
        return bool(np.allclose(vectors, features @ EMBEDDER_WEIGHTS, rtol=1e-4, atol=1e-3))
    x = np.array([number, number + 0.5, -number], np.float32)
    predict = PredictRequest(model=ModelReference(name="echo"), inputs={"x": to_tensor(x)})
    answer = from_tensor(stub.Predict(predict, timeout=PATIENCE).outputs["y"])
    return bool(np.array_equal(answer, x))


@dataclass
class Clients:
    """Callers with the product's own client, which comes again where that is safe.

    Attributes:
        right: How many answers were right, by caller.
        wrong: The answers that were not.
        broken: What was told of calls that were under way as their connection broke: they may have
            been what ended the server, and are not made again.
        faults: What else they were told, but that there is no server: one may take longer to come
            back than a client tries, and has accepted nothing meanwhile.
    """

    address: str
    right: list[int] = field(default_factory=lambda: [0] * 4)
    wrong: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    _told: threading.Condition = field(default_factory=threading.Condition)

    @contextmanager
    def asking(self) -> Iterator[None]:
        """Has them ask while inside."""
        over = threading.Event()
        threads = [
            threading.Thread(target=self._ask, args=(index, over))
            for index in range(len(self.right))
        ]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            over.set()
            for thread in threads:
                thread.join()

    def wait_answered(self, more: int = 5) -> None:
        """Waits until each has had some answers more."""
        wanted = [count + more for count in self.right]

        def have() -> bool:
            pairs = zip(self.right, wanted, strict=True)
            return bool(self.faults) or all(count >= want for count, want in pairs)

        with self._told:
            assert self._told.wait_for(have, 2 * PATIENCE), (self.right, wanted, self.broken[-3:])
        assert not self.faults, self.faults[:3]

    def assert_well(self, most_broken: int) -> None:
        """Fails unless every answer was right, and no more calls than that were broken."""
        assert not self.wrong
        assert not self.faults, self.faults[:3]
        # A client may write one more call to a connection before it is told that it is gone.
        written = [told for told in self.broken if any(words in told for words in _WRITTEN_LATE)]
        assert len(written) <= most_broken
        assert len(self.broken) - len(written) <= most_broken
        assert all(self.right)

    def _note(self, told: str) -> None:
        if "broke before an answer" in told:
            self.broken.append(told)
        elif not told.startswith("no connection to "):
            self.faults.append(told)

    def _ask(self, index: int, over: threading.Event) -> None:
        with Client(self.address, timeout=4 * PATIENCE) as client:
            number = 0
            while not over.is_set():
                x = np.array([index, number, 0.5], np.float32)
                try:
                    answer = client.predict("echo", {"x": x}).outputs["y"]
                except ForwardpassError as error:
                    self._note(str(error))
                else:
                    if np.array_equal(answer, x):
                        self.right[index] += 1
                    else:
                        self.wrong.append(f"call {number} of {index}")
                number += 1
                with self._told:
                    self._told.notify_all()
