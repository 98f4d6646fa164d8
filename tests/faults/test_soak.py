"""F10: many calls, some of them cancelled or wrong, keep no memory and are answered rightly.

A server that keeps each request, and one that errs now and then, are found by the same check.
"""

import statistics
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from cases.harness import together
from onnx import TensorProto
from tiny_models import Publisher, echo

from forwardpass.v1.inference_service_pb2 import PredictRequest
from forwardpass.v1.inference_service_pb2_grpc import InferenceServiceStub
from forwardpass.v1.model_service_pb2 import ModelReference
from forwardpass.wire import from_tensor, to_tensor

from .confinement import Confined, confined
from .conftest import MIB, Line, Tell

LIMIT = 1 << 30
PATIENCE = 30
CALLERS = 4
# Of each caller between two looks at the memory; so many looks at least, of which the first third
# warms up.
CALLS, LOOKS = 60, 9
# Numbers in a request, 64 KiB.
NUMBERS = 1 << 14
REQUEST_BYTES = 4 * NUMBERS
# How much a server's memory goes up and down by itself, and what part of each request may stay.
NOISE_BYTES, KEPT_PART = 8 * MIB, 100


@dataclass(frozen=True)
class Soak:
    """What many calls left.

    Attributes:
        outcomes: How many ended how: "right", "cancelled", "refused" as they should be, or in a way
            that they should not.
        memory: Bytes that the server took, after each `CALLERS * CALLS` calls.
    """

    outcomes: Counter[str]
    memory: list[int]

    def assert_well(self) -> None:
        """Fails unless calls ended as they should, and kept no memory."""
        assert set(self.outcomes) == {"right", "cancelled", "refused"}, self.outcomes
        settled = self.memory[len(self.memory) // 3 :]
        calls = [index * CALLERS * CALLS for index in range(len(settled))]
        slope, _ = statistics.linear_regression(calls, settled)
        allowed = max(REQUEST_BYTES / KEPT_PART, NOISE_BYTES / calls[-1])
        assert slope < allowed, f"{slope:.0f} bytes are kept of each call; {allowed:.0f} may be"


def request_of(index: int, number: int) -> PredictRequest:
    x = np.full(NUMBERS, number, np.float32)
    x[0] = index
    return PredictRequest(model=ModelReference(name="echo"), inputs={"x": to_tensor(x)})


def outcome(stub: Any, index: int, number: int) -> str:
    """Makes a call: one of ten is cancelled, one of twenty wrong. Returns how it ended."""
    request = request_of(index, number)
    if number % 20 == 7:
        request.inputs["other"].CopyFrom(request.inputs.pop("x"))
    call = stub.Predict.future(request, timeout=PATIENCE)
    if number % 10 == 3:
        call.cancel()
        return "cancelled"
    if call.code() is grpc.StatusCode.INVALID_ARGUMENT and number % 20 == 7:
        return "refused"
    if call.code() is not grpc.StatusCode.OK:
        return str(call.code())
    answer = from_tensor(call.result().outputs["y"])
    is_right = answer[0] == index and (answer[1:] == number).all() and len(answer) == NUMBERS
    return "right" if is_right else "wrong"


def soak(server: Confined, seconds: float) -> Soak:
    """Makes calls, and looks at the memory now and then, for some seconds and some looks."""
    outcomes: list[str] = []
    memory: list[int] = []
    end = time.monotonic() + seconds

    def work(index: int) -> None:
        options = [("grpc.use_local_subchannel_pool", 1)]
        with grpc.insecure_channel(server.address, options) as channel:
            stub = InferenceServiceStub(channel)
            first = len(memory) * CALLS
            outcomes.extend([outcome(stub, index, first + number) for number in range(CALLS)])

    while len(memory) < LOOKS or time.monotonic() < end:
        together(CALLERS, work)
        memory.append(server.used)
    return Soak(Counter(outcomes), memory)


@pytest.mark.lasts(10, 1)
@pytest.mark.parametrize("transport", ["completion_queue", "stock"])
def test_f10_calls_keep_no_memory_and_are_answered_rightly(
    transport: str, tmp_path: Path, seconds: float, tell: Tell
) -> None:
    Publisher(tmp_path)("echo", echo(TensorProto.FLOAT, ["n"]))
    with confined(tmp_path, LIMIT, "--transport", transport, "--threads", "1") as server:
        made = soak(server, seconds)
        assert server.process.poll() is None
    right = made.outcomes["right"]
    lost = made.outcomes.total() - right - made.outcomes["cancelled"] - made.outcomes["refused"]
    tell(Line("soak", transport, (made.memory[0], made.memory[-1]), (), right, lost))
    made.assert_well()


@pytest.mark.lasts(10, 0)
@pytest.mark.parametrize(
    ("fault", "why"), [("keeps", "bytes are kept of each call"), ("errs", "'wrong': ")]
)
def test_f10_a_server_that_keeps_requests_or_errs_is_found(
    fault: str, why: str, tmp_path: Path
) -> None:
    program = (str(Path(__file__).with_name("doubles.py")), fault)
    with confined(tmp_path, LIMIT, program=program) as server:
        made = soak(server, 0)
    with pytest.raises(AssertionError, match=why):
        made.assert_well()
