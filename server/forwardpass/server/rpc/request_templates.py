"""Requests that differ from one before in their id and their elements only.

A client sends request after request of one form: the same model, input, type, shape, options and
outputs. What parsing the first one and comparing it with the model has brought holds for all of
them, as long as their other bytes are the same and the model is.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from forwardpass.server.loading.loaded import Loaded
from forwardpass.server.onnx.signature import TensorSpec
from forwardpass.server.repository.repository import Repository
from forwardpass.server.rpc.execution import give_back, raise_
from forwardpass.server.rpc.inputs import InputReader
from forwardpass.server.scheduling.job import Answer, Job, Outcome, earliest
from forwardpass.server.transport.call import Call
from forwardpass.v1.model_service_pb2 import ModelReference
from forwardpass.wire import Array
from forwardpass.wire.dtypes import STRING

# So many forms are kept, of so many bytes each.
_MAX_TEMPLATES = 1024
_MOST_BYTES = 4096


class Encode(Protocol):
    """Makes the answers to requests of one form."""

    def __call__(self, request_ids: Sequence[str], run: Outcome, /) -> list[bytes]:
        """Returns the bytes of an answer for each request, in the order of their rows in a run."""


@dataclass(frozen=True, slots=True)
class Slots:
    """Where a request has what is its own.

    Attributes:
        id_at: Where its id begins; where its elements do, if it has none.
        id_end: Where its id ends.
        begin: Where its elements begin.
        end: Where they end.
    """

    id_at: int
    id_end: int
    begin: int
    end: int


@dataclass(frozen=True, slots=True)
class Plan:
    """What a request that fits its model asks for, apart from its own id and elements.

    Attributes:
        loaded: The model.
        rows: How many rows the inputs have.
        outputs: The names of the outputs wanted, in order.
        priority: As `Job.priority`.
        timeout: Seconds that the request may wait for its turn; None for any number.
        model: The model as a request of a stream names it; empty for any other.
    """

    loaded: Loaded
    rows: int
    outputs: tuple[str, ...]
    priority: int
    timeout: float | None = None
    model: ModelReference = field(default_factory=ModelReference)


class RequestTemplate:
    """What requests of one form have in common, their length among it. It is a `JobGroup`.

    Args:
        message: A request of the form.
        place: Where it has what is its own.
        spec: Its one input.
        shape: The shape that it sends.
        terms: What it asks for.
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
        "id_at",
        "id_end",
        "terms",
    )

    def __init__(  # noqa: PLR0917  # each is one thing
        self,
        message: bytes,
        place: Slots,
        spec: TensorSpec,
        shape: tuple[int, ...],
        terms: Plan,
        encode: Encode,
    ) -> None:
        self.before = message[: place.id_at]
        self.id_at = place.id_at
        self.id_end = place.id_end
        self.after = message[place.id_end : place.begin]
        self.behind = message[place.end :]
        self.terms = terms
        self.encode = encode
        self.begin = place.begin
        self._name = spec.name
        self._dtype = spec.type.dtype
        self._shape = shape
        self._count = (place.end - place.begin) // self._dtype.itemsize

    def read(self, message: bytes) -> Mapping[str, Array]:
        """Returns the input of one request, looked at where it lies."""
        array = np.frombuffer(message, self._dtype, self._count, self.begin).reshape(self._shape)
        return {self._name: array if array.flags.aligned else array.copy()}

    def gather(self, jobs: Sequence["TemplateJob"]) -> Mapping[str, Array]:
        """See `JobGroup.gather`."""
        begin, end = self.begin, self.begin + self._count * self._dtype.itemsize
        elements = b"".join([memoryview(job.message)[begin:end] for job in jobs])
        shape = (len(jobs) * self._shape[0], *self._shape[1:])
        return {self._name: np.frombuffer(elements, self._dtype).reshape(shape)}

    def answer(self, jobs: Sequence["TemplateJob"], run: Outcome) -> None:
        """See `JobGroup.answer`."""
        started = time.perf_counter()
        messages = self.encode([job.request_id for job in jobs], run)
        seconds = (time.perf_counter() - started) / len(jobs)
        # First, so that who has an answer finds it counted.
        self.terms.loaded.counters.answered(
            [job.decode_seconds for job in jobs], run.seconds, seconds
        )
        for job, message in zip(jobs, messages, strict=True):
            job.call.reply(message)


class TemplateJob(Job):
    """A request of a known form, with a lease on its model that ends with its call.

    Args:
        call: Who asks.
        form: Its form.
        message: Its bytes.
        request_id: What the caller calls it.
    """

    __slots__ = ("call", "decode_seconds", "form", "message", "request_id")

    def __init__(self, call: Call, form: RequestTemplate, message: bytes, request_id: str) -> None:
        terms = form.terms
        now = time.perf_counter()
        deadline = earliest(call.deadline, terms.timeout)
        super().__init__(terms.rows, terms.outputs, deadline, now, terms.priority, form)
        self.call = call
        self.form = form
        self.message = message
        self.request_id = request_id
        self.decode_seconds = now - call.started
        call.on_end(self._end)

    @property
    def inputs(self) -> Mapping[str, Array]:
        """See `Job.inputs`."""
        return self.form.read(self.message)

    def answered(self, answer: Answer) -> None:
        """See `Job.answered`."""
        self.call.resume(self.form.answer, (self,), answer.own())

    def failed(self, error: Exception) -> None:
        """See `Job.failed`."""
        self.call.resume(raise_, error)

    def _end(self, call: Call, code: int) -> None:
        give_back(call, self.form.terms.loaded, code, (self,))


class RequestTemplates:
    """The forms known of one method's requests, by their length.

    Args:
        repository: The models: when they change, all forms are forgotten.
        reader: Knows what is refused.
    """

    def __init__(self, repository: Repository, reader: InputReader) -> None:
        self._repository = repository
        # Where elements are looked at before they are taken, a form says too little.
        self._may_learn = not reader.reject_nonfinite
        self._forms: dict[int, RequestTemplate] = {}
        repository.on_change(self._forms.clear)

    def find(self, message: bytes) -> RequestTemplate | None:
        """Returns the form of a request; None where it is not known."""
        form = self._forms.get(len(message))
        if (
            form is None
            or message[: form.id_at] != form.before
            or (form.after and message[form.id_end : form.begin] != form.after)
            or (form.behind and not message.endswith(form.behind))
        ):
            return None
        return form

    def take(self, call: Call, message: bytes) -> bool:
        """Answers a request of a known form; whether it is one.

        Raises:
            CallError: The model's queue is full.
        """
        form = self.find(message)
        if form is None:
            return False
        request_id = ""
        if form.after:
            try:
                request_id = message[form.id_at : form.id_end].decode()
            except UnicodeDecodeError:
                return False
        loaded = form.terms.loaded
        if not loaded.leases.enter():
            return False
        loaded.executor.submit(TemplateJob(call, form, message, request_id))
        return True

    def learn(  # noqa: PLR0917  # each is one thing
        self,
        message: bytes,
        place: Slots,
        shape: tuple[int, ...],
        terms: Plan,
        encode: Encode,
        epoch: int,
    ) -> None:
        """Keeps the form of a request of one input, if all that it says holds for the next.

        Args:
            message: The request. It names no label: labels may come to point elsewhere at any time.
            place: Where it has what is its own.
            shape: The shape of its input.
            terms: What it asks for.
            encode: Makes its answer.
            epoch: The repository's, from before its model was looked up.
        """
        signature = terms.loaded.signature
        specs = [*signature.inputs.values(), *(signature.outputs[name] for name in terms.outputs)]
        if (
            not self._may_learn
            or len(signature.inputs) != 1
            # On a stream, what it gives depends on the requests before.
            or signature.states
            # Strings and booleans have to be looked at.
            or any(spec.type is STRING for spec in specs)
            or specs[0].type.dtype.kind == "b"
            or not shape
            or place.begin == place.end
            or len(message) - (place.end - place.begin) > _MOST_BYTES
        ):
            return
        if len(self._forms) >= _MAX_TEMPLATES:
            self._forms.clear()
        self._forms[len(message)] = RequestTemplate(message, place, specs[0], shape, terms, encode)
        if self._repository.epoch != epoch:
            # Its model may be on the way out, and would be held on to.
            self._forms.clear()


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
