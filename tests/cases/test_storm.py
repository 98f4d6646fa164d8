"""Everything at once: callers, swaps, loads and cancelled calls, and what they leave behind."""

import random
import shutil
import threading
from collections import Counter
from typing import Any

import grpc
import numpy as np
from conftest import Running, StartServer
from failures import read_failure
from onnx import TensorProto, helper
from tiny_models import Publisher, TinyModel, model, picker

from forwardpass.wire import Reason, from_tensor

from .harness import (
    PATIENCE,
    assert_idle,
    connect,
    get,
    load,
    manage,
    metric,
    pick,
    picked,
    predict,
    resident,
    stub_of,
    together,
    unload,
)

CALLERS = 32
SWAPS, LOADS = 20, 50
# Numbers in the table of a version, 4 bytes each: 8 MiB, so that 20 that stay are 160 MiB.
ENTRIES = 2 << 20
ROWS = np.array([0, 1, ENTRIES // 2, ENTRIES - 1], np.int64)
TELL = predict("heavy", {"index": ROWS})


def heavy(version: int) -> TinyModel:
    """Answers its own version's number, from any row of a large table."""
    return TinyModel(
        model(
            [helper.make_node("Gather", ["table", "index"], ["value"])],
            [helper.make_tensor_value_info("index", TensorProto.INT64, ["n"])],
            [helper.make_tensor_value_info("value", TensorProto.FLOAT, ["n"])],
            {"table": np.full(ENTRIES, version, np.float32)},
        )
    )


def publish(repository: Publisher, version: int) -> None:
    """Publishes a version as the trainer does: whole, under its name at last."""
    aside = Publisher(repository.root / ".tmp-publish")
    folder = aside("heavy", heavy(version), version)
    (repository.root / "heavy").mkdir(exist_ok=True)
    folder.rename(repository.root / "heavy" / str(version))


def told(response: Any) -> int:
    """Returns the version that says it answered, whose answer it must be."""
    version: int = response.model.version
    assert from_tensor(response.outputs["value"]).tolist() == [version] * len(ROWS)
    return version


def outcome(call: Any, wanted: int | None) -> str:
    """Returns how a call ended: one to the picker for `wanted`, or one to the heavy model."""
    try:
        response = call.result()
    except grpc.FutureCancelledError:
        return "cancelled"
    except grpc.RpcError as error:
        # Only the model that is unloaded may be away, and says so.
        away = read_failure(error).reason in {Reason.MODEL_NOT_FOUND, Reason.MODEL_LOADING}
        return "away" if away and wanted is not None else str(error)
    if wanted is None:
        told(response)
    else:
        assert picked(response) == [wanted]
    return "right"


def storm(running: Running, repository: Publisher, version: int) -> Counter[str]:
    """Calls from 32 connections while the heavy model is swapped and the picker comes and goes.

    A third of the calls is cancelled, each at a random moment.

    Args:
        running: The server, with versions of the heavy model up to `version`, and the picker.
        repository: Its models.
        version: The heavy model's newest version.

    Returns:
        How many calls ended how.
    """
    done = threading.Event()
    both = threading.Barrier(2, done.set)
    outcomes: list[str] = []

    def ask(index: int) -> None:
        chance = random.Random(index)
        with connect(running) as channel:
            stub = stub_of(channel)
            while not done.is_set():
                wanted = chance.choice((None, chance.randrange(4)))
                request = TELL if wanted is None else pick(wanted)
                call = stub.Predict.future(request, timeout=PATIENCE)
                if chance.random() < 1 / 3:
                    done.wait(chance.uniform(0, 0.02))
                    call.cancel()
                outcomes.append(outcome(call, wanted))

    def swap() -> None:
        try:
            with manage(running) as stub:
                for number in range(version + 1, version + 1 + SWAPS):
                    publish(repository, number)
                    load(stub, "heavy", number)
                    unload(stub, "heavy", number - 1)
                    shutil.rmtree(repository.root / "heavy" / str(number - 1))
        finally:
            both.wait(PATIENCE)

    def come_and_go() -> None:
        try:
            with manage(running) as stub:
                for _ in range(LOADS):
                    unload(stub, "pick", 1)
                    load(stub, "pick", 1)
        finally:
            both.wait(PATIENCE)

    managers = {CALLERS: swap, CALLERS + 1: come_and_go}
    together(CALLERS + 2, lambda index: managers.get(index, lambda: ask(index))())
    return Counter(outcomes)


def test_a_storm_of_calls_swaps_loads_and_cancels_leaves_nothing_behind(
    repository: Publisher, start_server: StartServer
) -> None:
    publish(repository, 1)
    repository("pick", picker())
    running = start_server(management_port=0)
    resident_after = []
    for number in range(2):
        outcomes = storm(running, repository, 1 + number * SWAPS)
        assert set(outcomes) == {"right", "cancelled", "away"}, outcomes
        assert told(running.inference.Predict(TELL)) == 1 + (number + 1) * SWAPS
        assert picked(running.inference.Predict(pick(3))) == [3]
        assert get(running, "/readyz")[0] == 200
        assert metric(running, "grpc_server_handled_total", grpc_code="INTERNAL") == 0
        assert_idle(running)
        resident_after.append(resident())
    # The first storm warms up; in the second, to keep its versions would cost 160 MiB.
    assert resident_after[1] - resident_after[0] < 64 << 20
