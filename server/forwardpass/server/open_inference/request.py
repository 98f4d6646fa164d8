"""What a ModelInferRequest asks for."""

from dataclasses import dataclass
from typing import Any

from forwardpass.server.errors import InvalidInput, quote
from forwardpass.server.loading.loaded import Loaded
from forwardpass.server.open_inference import parameters
from forwardpass.server.open_inference.classification import is_rankable
from forwardpass.server.open_inference.messages import message
from forwardpass.server.open_inference.tensors import MAX_TENSORS, read_inputs
from forwardpass.server.rpc.inputs import InputReader
from forwardpass.server.rpc.parse import parse
from forwardpass.server.rpc.request_templates import Plan, Slots
from forwardpass.server.rpc.scan import Field, Layout, Span, scan, without
from forwardpass.wire import Array
from forwardpass.wire.fields import length_delimited

_ModelInferRequest = message("ModelInferRequest")
_ID = 3
_PARAMETERS = Field("parameters", parameters.MAX_PARAMETERS)
_TENSOR = Layout(
    {
        # An encoder writes a shape as one field, or one field for each axis.
        3: Field("shape", MAX_TENSORS),
        4: _PARAMETERS,
        5: Field("contents", 1),
    }
)
_OUTPUT = Layout({2: _PARAMETERS})
_REQUEST = Layout(
    {
        4: _PARAMETERS,
        5: Field("inputs", MAX_TENSORS, inside=_TENSOR),
        6: Field("outputs", MAX_TENSORS, inside=_OUTPUT),
        7: Field("raw_input_contents", MAX_TENSORS, payload=True),
    }
)


@dataclass(slots=True, eq=False)
class Sent:
    """A request that has been parsed, but not compared with a model.

    Attributes:
        message: Its bytes.
        head: All of the ModelInferRequest but its raw contents.
        spans: Where these are in `message`.
    """

    message: bytes
    head: Any
    spans: list[Span]


def receive(data: bytes) -> Sent:
    """Returns the request in a message, without having copied its raw contents.

    Raises:
        InvalidInput: It is none, or has more parts than a request may have.
    """
    spans = scan(data, _REQUEST)
    return Sent(data, parse(_ModelInferRequest, without(data, spans)), spans)


def compare(
    sent: Sent, loaded: Loaded, reader: InputReader
) -> tuple[Plan, dict[str, int], dict[str, Array]]:
    """Returns what the request asks of the model, and an array for each input.

    Between them stands how many classes to name instead of an output's values, by output.

    Raises:
        InvalidInput: It does not fit the model, or contradicts itself.
        CallError: It asks for what is not done here.
    """
    head = sent.head
    priority, timeout = _schedule(head.parameters, loaded)
    inputs = read_inputs(head.inputs, sent.message, sent.spans, reader)
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
    return level, timeout / 1e6 if timeout else None


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


def place(sent: Sent) -> Slots | None:
    """Returns where a request that has all else in common with others has its id and its elements.

    None where it has several inputs or none, typed contents, fields behind its elements, or an id
    that does not follow the model's name and version, where encoders write it; and where it names a
    label, which may come to point elsewhere.
    """
    message, head = sent.message, sent.head
    is_labelled = head.model_version and not head.model_version.isdecimal()
    if len(sent.spans) != 1 or is_labelled:
        return None
    _, begin, end = sent.spans[0]
    if end != len(message):
        return None
    if not head.id:
        return Slots(begin, begin, begin, end)
    named = _ModelInferRequest(model_name=head.model_name, model_version=head.model_version)
    request_id = head.id.encode()
    with_id: bytes = named.SerializeToString() + length_delimited(_ID, request_id)
    rest = without(message, sent.spans)[len(with_id) :]
    if not message.startswith(with_id) or parse(_ModelInferRequest, rest).id:
        return None
    return Slots(len(with_id) - len(request_id), len(with_id), begin, end)
