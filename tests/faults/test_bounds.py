"""T103: nobody is shut out, and memory lasts, whatever one caller sends.

A server with the memory and the settings that deploy/ ships is attacked for some seconds, or, by
`make faults`, for minutes; meanwhile a caller who has nothing to do with it asks for a little.
"""

import multiprocessing
import statistics
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from onnx import TensorProto, helper
from tiny_models import Publisher, TinyModel, classifier, echo, embedder, generator, maker, model

from forwardpass.v1 import model_card_pb2
from forwardpass.v1.inference_service_pb2 import PredictRequest
from forwardpass.v1.inference_service_pb2_grpc import InferenceServiceStub
from forwardpass.v1.model_service_pb2 import ModelReference
from forwardpass.wire import to_tensor

from . import attacks
from .confinement import Confined, confined

LIMIT = 1 << 30
SHORT_SECONDS = 3.0
MIB = 1 << 20
# What may stay when a row is run once more, and how long a caller may wait.
LEFT_BYTES, P99_SECONDS = 50 * MIB, 1.0
PATIENCE = 30
# After so many a server has given back what it no longer needs.
SETTLING_SECONDS = 5.0


def large_generator(cap: int) -> TinyModel:
    """Gives 1,024 samples that are together just under the cap."""
    tiny = generator()
    columns = (cap - 65_536) // 1024
    weights = np.ones((5, columns), np.float32)
    value = helper.make_tensor_value_info
    graph = model(
        [
            helper.make_node("MatMul", ["latent", "weights"], ["grey"]),
            helper.make_node("Cast", ["grey"], ["bytes"], to=TensorProto.UINT8),
            helper.make_node("Reshape", ["bytes", "shape"], ["images"]),
        ],
        [value("latent", TensorProto.FLOAT, ["n", 5])],
        [value("images", TensorProto.UINT8, ["n", 1, columns, 1])],
        {"weights": weights, "shape": np.array([-1, 1, columns, 1], np.int64)},
    )
    card = model_card_pb2.ModelCard()
    assert tiny.card is not None
    card.CopyFrom(tiny.card)
    card.signature.outputs[0].shape[:] = [-1, 1, columns, 1]
    return TinyModel(graph, card)


@dataclass
class Caller:
    """Asks for a little, again and again, and notes how long each answer took.

    Attributes:
        seconds: Them.
        errors: What it was told instead of an answer.
    """

    address: str
    seconds: list[float] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    @contextmanager
    def asking(self) -> Iterator[None]:
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
        return statistics.quantiles(self.seconds, n=100)[-1]

    def _ask(self, over: threading.Event) -> None:
        x = to_tensor(np.ones(1, np.float32))
        request = PredictRequest(model=ModelReference(name="echo"), inputs={"x": x})
        options = [("grpc.use_local_subchannel_pool", 1)]
        with grpc.insecure_channel(self.address, options) as channel:
            predict: Any = InferenceServiceStub(channel).Predict
            while not over.wait(0.02):
                begun = time.monotonic()
                try:
                    predict(request, timeout=PATIENCE)
                except grpc.RpcError as error:
                    self.errors.append(str(error))
                else:
                    self.seconds.append(time.monotonic() - begun)


def attack(server: Confined, row: attacks.Attack, cap: int, seconds: float) -> Caller:
    """Attacks a server while somebody else calls it."""
    caller = Caller(server.address)
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=attacks.run, args=(row, server.address, cap, seconds))
    with caller.asking():
        process.start()
        process.join(seconds + 120)
        if process.exitcode is None:
            process.kill()
            process.join()
    assert process.exitcode == 0
    return caller


def serving(root: Path, cap: int, transport: str) -> Any:
    publish = Publisher(root)
    publish("echo", echo(TensorProto.FLOAT, ["n"]))
    publish("gen", large_generator(cap))
    publish("emb", embedder())
    publish("clf", classifier())
    publish("maker", maker())
    flags = ("--max-message-bytes", str(cap), "--transport", transport, "--threads", "1")
    return confined(root, LIMIT, *flags)


def settled(server: Confined) -> int:
    """Returns the bytes that a server takes once it has been left alone for a while."""
    threading.Event().wait(SETTLING_SECONDS)
    return server.used


def tell(config: pytest.Config, line: str) -> None:
    """Writes a line for whoever runs the tests, however they end."""
    reporter: Any = config.pluginmanager.get_plugin("terminalreporter")
    reporter.write_line(line)


@pytest.mark.parametrize("transport", ["completion_queue", "stock"])
@pytest.mark.parametrize("cap", [8 * MIB, 64 * MIB], ids=["8MiB", "64MiB"])
@pytest.mark.parametrize("row", attacks.ATTACKS, ids=lambda row: row.__name__)
def test_t103_nobody_is_shut_out_and_memory_lasts(
    row: attacks.Attack,
    cap: int,
    transport: str,
    tmp_path: Path,
    pytestconfig: pytest.Config,
) -> None:
    seconds: float = pytestconfig.getoption("--fault-seconds")
    if not seconds and (cap > 8 * MIB or (row is attacks.watches and transport == "stock")):
        pytest.skip("only by `make faults`")
    with serving(tmp_path, cap, transport) as server:
        if not seconds:
            caller = attack(server, row, cap, SHORT_SECONDS)
            assert server.process.poll() is None
            assert not caller.errors
            assert caller.seconds
            return
        with Caller(server.address).asking():
            threading.Event().wait(seconds / 2)
        left, callers = [], []
        for _ in range(2):
            callers.append(attack(server, row, cap, seconds))
            assert server.process.poll() is None
            left.append(settled(server))
        p99s = " and ".join(f"{caller.p99:.3f} s" for caller in callers)
        answers = sum(len(caller.seconds) for caller in callers)
        memory = " and ".join(f"{used / MIB:.0f} MiB" for used in left)
        tell(pytestconfig, f"\n  p99 {p99s} of {answers} answers; {memory} left")
        for caller in callers:
            assert not caller.errors
            # A refusal takes a thread of the stock transport, and others wait for theirs.
            assert transport == "stock" or caller.p99 < P99_SECONDS
        assert left[1] - left[0] < LEFT_BYTES
