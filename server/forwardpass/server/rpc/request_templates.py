"""Requests that differ from an earlier one in their id and their elements only.

A client sends request after request alike: the same model, input, type, shape, options and outputs.
What parsing the first one and comparing it with the model has shown holds for all of them, as long
as their other bytes are the same and the model is. Whether a request may be remembered is decided
here, in `RequestTemplates.remember`, for both protocols.

This path is the hot one, and stays callbacks where every other handler is a coroutine: a coroutine
with its task and one future takes 3 to 5 microseconds more, where all the Python of such a request
takes some fifteen.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from forwardpass.server.aligned import Aligned, copy_aligned, join_aligned
from forwardpass.server.loading.loaded import Loaded
from forwardpass.server.onnx.signature import TensorSpec
from forwardpass.server.repository.repository import Repository
from forwardpass.server.rpc.execution import give_back
from forwardpass.server.rpc.inputs import InputReader
from forwardpass.server.rpc.receive import Received, Slots
from forwardpass.server.scheduling.job import Answer, Job, Outcome
from forwardpass.server.transport.call import Call
from forwardpass.v1.model_service_pb2 import ModelReference
from forwardpass.wire import Array
from forwardpass.wire.dtypes import STRING

# The most templates of a method, and the most bytes of each beside the elements.
_MAX_TEMPLATES = 1024
_MAX_BYTES = 4096


class Encode(Protocol):
    """Makes the answers to requests of one template."""

    def __call__(self, request_ids: Sequence[str], run: Outcome, /) -> list[bytes]:
        """Returns the bytes of an answer for each request, in the order of their rows in a run."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What a request that fits its model asks for, apart from its own id and elements.

    Attributes:
        loaded: The model.
        rows: How many rows the inputs have.
        outputs: The names of the outputs wanted, in order.
        priority: As `Job.priority`.
        timeout: Seconds that the request may wait for its turn; None for any number.
    """

    loaded: Loaded
    rows: int
    outputs: tuple[str, ...]
    priority: int
    timeout: float | None = None


class RequestTemplate:
    """What requests that are alike have in common, their length among it. It is a `JobGroup`.

    Attributes:
        model: The model, as the requests name it.
        plan: What they ask for.

    Args:
        message: One of the requests.
        slots: Where it has what is its own.
        spec: Its one input.
        shape: The shape of that input.
        model: The model, as it names it.
        plan: What it asks for.
        encode: Makes its answer.
    """

    __slots__ = (
        "_count",
        "_dtype",
        "_name",
        "_shape",
        "after",
        "before",
        "begin",
        "behind",
        "encode",
        "end",
        "id_begin",
        "id_end",
        "model",
        "plan",
    )

    def __init__(  # noqa: PLR0917  # each is one thing
        self,
        message: bytes,
        slots: Slots,
        spec: TensorSpec,
        shape: tuple[int, ...],
        model: ModelReference,
        plan: Plan,
        encode: Encode,
    ) -> None:
        self.before = message[: slots.id_begin]
        self.id_begin = slots.id_begin
        self.id_end = slots.id_end
        self.after = message[slots.id_end : slots.begin]
        self.behind = message[slots.end :]
        self.model = model
        self.plan = plan
        self.encode = encode
        self.begin = slots.begin
        self.end = slots.end
        self._name = spec.name
        self._dtype = spec.type.dtype
        self._shape = shape
        self._count = (slots.end - slots.begin) // self._dtype.itemsize

    def read(self, message: bytes) -> Mapping[str, Array]:
        """Returns the input of one request, looked at where it lies."""
        array = np.frombuffer(message, self._dtype, self._count, self.begin)
        return {self._name: array.reshape(self._shape)}

    def gather(self, jobs: Sequence["TemplateJob"]) -> Mapping[str, Array]:
        """See `JobGroup.gather`."""
        begin, end, shape = self.begin, self.end, self._shape
        if len(jobs) == 1:
            elements = copy_aligned(memoryview(jobs[0].message)[begin:end])
        else:
            elements = join_aligned([memoryview(job.message)[begin:end] for job in jobs])
            shape = (len(jobs) * shape[0], *shape[1:])
        return Aligned({self._name: np.ndarray(shape, self._dtype, elements)})

    def answer(self, jobs: Sequence["TemplateJob"], run: Outcome) -> None:
        """See `JobGroup.answer`."""
        started = time.perf_counter()
        messages = self.encode([job.request_id for job in jobs], run)
        seconds = (time.perf_counter() - started) / len(jobs)
        # First, so that who has an answer finds it counted.
        self.plan.loaded.counters.answered(
            [job.decode_seconds for job in jobs], run.seconds, seconds
        )
        for job, message in zip(jobs, messages, strict=True):
            job.call.reply(message)


class TemplateJob(Job):
    """A request of a known form, with a lease on its model that ends with its call.

    Args:
        call: Who asks.
        template: Its form.
        message: Its bytes.
        request_id: What the caller calls it.
    """

    __slots__ = ("call", "decode_seconds", "message", "request_id", "template")

    def __init__(
        self, call: Call, template: RequestTemplate, message: bytes, request_id: str
    ) -> None:
        plan = template.plan
        now = time.perf_counter()
        super().__init__(
            plan.rows,
            plan.outputs,
            call.deadline,
            now,
            plan.priority,
            template,
            timeout=plan.timeout,
        )
        self.call = call
        self.template = template
        self.message = message
        self.request_id = request_id
        self.decode_seconds = now - call.started
        call.on_end(self._end)

    @property
    def inputs(self) -> Mapping[str, Array]:
        """See `Job.inputs`."""
        return self.template.read(self.message)

    def answered(self, answer: Answer) -> None:
        """See `Job.answered`."""
        self.call.resume(self.template.answer, (self,), answer.own())

    def failed(self, error: Exception) -> None:
        """See `Job.failed`."""
        self.call.resume(self.call.fail_with, error)

    def _end(self, call: Call, code: int) -> None:
        give_back(call, self.template.plan.loaded, code, (self,))


class RequestTemplates:
    """The templates of one method's requests, by their length.

    Args:
        repository: The models: when they change, all templates are forgotten.
        reader: Knows what is refused.
    """

    def __init__(self, repository: Repository, reader: InputReader) -> None:
        self._repository = repository
        # Where elements are looked at before they are taken, a template says too little.
        self._may_remember = not reader.reject_nonfinite
        self._templates: dict[int, RequestTemplate] = {}
        repository.on_change(self._templates.clear)

    def find(self, message: bytes) -> RequestTemplate | None:
        """Returns the template of a request; None where there is none."""
        template = self._templates.get(len(message))
        if (
            template is None
            or message[: template.id_begin] != template.before
            or (template.after and message[template.id_end : template.begin] != template.after)
            or (template.behind and not message.endswith(template.behind))
        ):
            return None
        return template

    def take(self, call: Call, message: bytes) -> bool:
        """Begins to answer a request of a known form; whether it is one.

        Raises:
            CallError: The model's queue is full.
        """
        template = self.find(message)
        return template is not None and self.begin(call, message, template)

    def begin(self, call: Call, message: bytes, template: RequestTemplate) -> bool:
        """Begins to answer a request whose template was found; whether its model still takes any.

        Raises:
            CallError: The model's queue is full.
        """
        request_id = ""
        if template.after:
            try:
                request_id = message[template.id_begin : template.id_end].decode()
            except UnicodeDecodeError:
                return False
        loaded = template.plan.loaded
        if not loaded.leases.enter():
            return False
        loaded.executor.submit(TemplateJob(call, template, message, request_id))
        return True

    def remember(  # noqa: PLR0917  # each is one thing
        self,
        received: Received[Any],
        model: ModelReference,
        inputs: Mapping[str, Array],
        plan: Plan,
        encode: Encode | None,
        epoch: int,
    ) -> None:
        """Keeps the template of a request, if all that it says holds for the next one.

        Args:
            received: The request.
            model: The model, as the request names it.
            inputs: Its arrays.
            plan: What it asks for.
            encode: Makes its answer; None where that is more than its elements and its id.
            epoch: The repository's, from before its model was looked up.
        """
        signature = plan.loaded.signature
        specs = [*signature.inputs.values(), *(signature.outputs[name] for name in plan.outputs)]
        if encode is None or not self._may_remember or len(signature.inputs) != 1:
            return
        slots = received.slots()
        if (
            slots is None
            # A label may come to point elsewhere at any time; on a stream, a request that names no
            # model means that of the one before it.
            or model.label
            or not model.name
            # On a stream, what a model with states gives depends on the requests before.
            or signature.states
            # Strings and booleans have to be looked at.
            or any(spec.type is STRING for spec in specs)
            or specs[0].type.dtype.kind == "b"
            or not inputs[specs[0].name].shape
            or len(received.message) - (slots.end - slots.begin) > _MAX_BYTES
        ):
            return
        if len(self._templates) >= _MAX_TEMPLATES:
            self._templates.clear()
        named = ModelReference()
        # Copied: a submessage keeps its parent alive.
        named.CopyFrom(model)
        shape = inputs[specs[0].name].shape
        self._templates[len(received.message)] = RequestTemplate(
            received.message, slots, specs[0], shape, named, plan, encode
        )
        if self._repository.epoch != epoch:
            # Its model may be on the way out, and would be held on to.
            self._templates.clear()


def assemble(same: bytes, outputs: Sequence[tuple[bytes, bytes]], count: int) -> list[bytes]:
    """Returns messages that begin alike, each with its share of every output.

    Args:
        same: What all begin with.
        outputs: What stands before the share of an output, and the output's bytes.
        count: How many messages, of equal shares.
    """
    if count == 1:
        return [b"".join([same, *(part for output in outputs for part in output)])]
    messages = []
    for index in range(count):
        parts = [same]
        for prefix, content in outputs:
            size = len(content) // count
            parts += (prefix, content[index * size : (index + 1) * size])
        messages.append(b"".join(parts))
    return messages
