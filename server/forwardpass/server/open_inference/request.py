"""What a ModelInferRequest asks for."""

from typing import Any

from forwardpass.server.errors import InvalidInput, quote
from forwardpass.server.loading.loaded import Loaded
from forwardpass.server.open_inference import parameters
from forwardpass.server.open_inference.classification import is_rankable
from forwardpass.server.open_inference.tensors import read_inputs
from forwardpass.server.rpc.inputs import InputReader
from forwardpass.server.rpc.receive import Received
from forwardpass.server.rpc.request_templates import Plan
from forwardpass.server.transport.call import Call
from forwardpass.wire import Array


def compare(
    call: Call, received: Received[Any], loaded: Loaded, reader: InputReader
) -> tuple[Plan, dict[str, int], dict[str, Array]]:
    """Returns what the request asks of the model, and an array for each input.

    Between them stands how many classes to name instead of an output's values, by output.

    Raises:
        InvalidInput: It does not fit the model, or contradicts itself.
        CallError: It asks for what is not done here, or there is no room for it.
    """
    head = received.head
    priority, timeout = _schedule(head.parameters, loaded)
    inputs = read_inputs(call, received, reader)
    rows = loaded.signature.check(inputs)
    wanted = head.outputs
    outputs = loaded.signature.select_outputs([output.name for output in wanted])
    classes = _class_counts(wanted, loaded) if wanted else {}
    return Plan(loaded, rows, outputs, priority, timeout), classes, inputs


def _schedule(given: Any, loaded: Loaded) -> tuple[int, float | None]:
    """Returns the job's priority and timeout that the parameters ask for.

    Triton's priorities begin at 1, and 0 is the model's default; its timeout is in microseconds,
    and 0 is none.
    """
    priority = timeout = 0
    if given:
        parameters.check(given, "parameters")
        priority = parameters.integer(given, "priority", "parameters")
        timeout = parameters.integer(given, "timeout", "parameters")
    level = max(0, priority - 1) if priority else loaded.config.first_priority
    return level, loaded.config.timeout(timeout / 1e6 if timeout else None)


def _class_counts(wanted: Any, loaded: Loaded) -> dict[str, int]:
    """Returns how many classes to name, by output; those whose values are wanted are left out."""
    classes: dict[str, int] = {}
    for output in wanted:
        name = output.name
        field = f"outputs.{quote(name)}.parameters"
        parameters.check(output.parameters, field)
        count = parameters.integer(output.parameters, "classification", field)
        if not count:
            continue
        if not is_rankable(loaded.signature.outputs[name]):
            raise InvalidInput(
                f"output {quote(name)} cannot be ranked: its elements are no numbers", field=field
            )
        classes[name] = count
    return classes
