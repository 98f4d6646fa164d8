"""T103: nobody is shut out, and memory lasts, whatever one caller sends.

A server with the memory and the settings that deploy/ ships is attacked for some seconds, or, by
`make faults`, for longer; meanwhile a caller who has nothing to do with it asks for a little.
"""

import multiprocessing
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper
from tiny_models import Publisher, TinyModel, classifier, generator, maker, model

from forwardpass.v1 import model_card_pb2

from . import attacks
from .callers import Caller, publish_what_they_ask
from .confinement import Confined, confined
from .conftest import MIB, Line, Tell

LIMIT = 1 << 30
SHORT_SECONDS = 3.0
# What may stay when a row is run once more, and how long a caller may wait.
LEFT_BYTES, LEFT_DESCRIPTORS, P99_SECONDS = 50 * MIB, 16, 1.0
# What a thread takes.
THREAD_BYTES = MIB // 4
# After so many a server has given back what it no longer needs.
SETTLING_SECONDS = 3.0


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
    publish_what_they_ask(publish)
    publish("gen", large_generator(cap))
    publish("clf", classifier())
    publish("maker", maker())
    flags = ("--max-message-bytes", str(cap), "--transport", transport, "--threads", "1")
    return confined(root, LIMIT, *flags)


def settled(server: Confined) -> int:
    """Returns the bytes that a server takes once it has been left alone for a while."""
    threading.Event().wait(SETTLING_SECONDS)
    return server.used


ROWS = [
    pytest.param(row, cap, id=f"{row.__name__}-{cap // MIB}MiB")
    for row in (*attacks.BY_SIZE, *attacks.OTHERS)
    for cap in ([8 * MIB, 64 * MIB] if row in attacks.BY_SIZE else [8 * MIB])
]


@pytest.mark.lasts(16, 2.25)
@pytest.mark.parametrize("transport", ["completion_queue", "stock"])
@pytest.mark.parametrize(("row", "cap"), ROWS)
def test_t103_nobody_is_shut_out_and_memory_lasts(
    *, row: attacks.Attack, cap: int, transport: str, tmp_path: Path, seconds: float, tell: Tell
) -> None:
    if not seconds and (cap > 8 * MIB or row in attacks.LONG_ONLY):
        pytest.skip("only by `make faults`")
    with serving(tmp_path, cap, transport) as server:
        if not seconds:
            caller = attack(server, row, cap, SHORT_SECONDS)
            assert server.process.poll() is None
            caller.assert_well()
            return
        with Caller(server.address).asking():
            threading.Event().wait(seconds / 4)
        left, files, threads, callers = [], [], [], []
        for _ in range(2):
            callers.append(attack(server, row, cap, seconds))
            assert server.process.poll() is None
            left.append(settled(server))
            files.append(server.descriptors)
            threads.append(server.threads)
        tell(
            Line(
                f"{row.__name__} {cap // MIB} MiB",
                transport,
                tuple(left),
                tuple(caller.p99 for caller in callers),
                sum(len(caller.seconds) for caller in callers),
                sum(len(caller.lost) + len(caller.wrong) for caller in callers),
            )
        )
        for caller in callers:
            caller.assert_well()
            # A call takes a thread of the stock transport, and others wait for theirs.
            assert transport == "stock" or caller.p99 < P99_SECONDS
        # On the stock transport a thread stays for the next call, up to as many as it may have.
        more_threads = max(0, threads[1] - threads[0])
        assert left[1] - left[0] < LEFT_BYTES + THREAD_BYTES * more_threads
        assert files[1] - files[0] < LEFT_DESCRIPTORS
