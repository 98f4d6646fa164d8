"""Requests that differ from one before in their id and their elements only.

A client sends request after request of one form: the same model, input, type, shape, parameters
and outputs. What parsing the first one and comparing it with the model has brought holds for all
of them, as long as their other bytes are the same and the model is.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from forwardpass.server.rpc.execution import give_back, raise_
from forwardpass.server.rpc.inputs import InputReader
from forwardpass.server.rpc.open_inference.messages import message as kind
from forwardpass.server.rpc.open_inference.request import Sent, Terms
from forwardpass.server.rpc.open_inference.response import encode, encode_alike
from forwardpass.server.rpc.parse import parse
from forwardpass.server.rpc.scan import without
from forwardpass.server.runtime.repository import Repository
from forwardpass.server.runtime.signature import TensorSpec
from forwardpass.server.scheduling.job import Answer, Job, Outcome, earliest
from forwardpass.server.transport.call import Call
from forwardpass.wire import Array
from forwardpass.wire.dtypes import STRING
from forwardpass.wire.fields import length_delimited

_ModelInferRequest = kind("ModelInferRequest")
_ID = 3
# So many forms are kept, of so many bytes each.
_MOST_FORMS = 1024
_MOST_BYTES = 4096


@dataclass(slots=True, eq=False)
class Form:
    """What requests of one form have in common, their length among it. It is a `Kind` of jobs.

    Attributes:
        before: Their bytes up to the id's own; up to the elements where they have no id.
        after: Their bytes from behind the id to the elements.
        after_at: Where `after` begins.
        begin: Where the elements begin.
        input: The one input.
        shape: Its shape.
        terms: What they ask for.
    """

    before: bytes
    after: bytes
    after_at: int
    begin: int
    input: TensorSpec
    shape: tuple[int, ...]
    terms: Terms

    def read(self, message: bytes) -> Mapping[str, Array]:
        """Returns the input of one request, looked at where it lies."""
        spec = self.input
        array = np.frombuffer(message, spec.type.dtype, -1, self.begin).reshape(self.shape)
        return {spec.name: array if array.flags.aligned else array.copy()}

    def gather(self, jobs: Sequence["FormJob"]) -> Mapping[str, Array]:
        """See `Kind.gather`."""
        spec, begin = self.input, self.begin
        elements = b"".join([memoryview(job.message)[begin:] for job in jobs])
        shape = (len(jobs) * self.shape[0], *self.shape[1:])
        return {spec.name: np.frombuffer(elements, spec.type.dtype).reshape(shape)}

    def answer(self, jobs: Sequence["FormJob"], run: Outcome) -> None:
        """See `Kind.answer`."""
        started = time.perf_counter()
        messages = encode_alike(self.terms, [job.request_id for job in jobs], run)
        seconds = (time.perf_counter() - started) / len(jobs)
        # First, so that who has an answer finds it counted.
        self.terms.loaded.counters.answered(
            [job.decode_seconds for job in jobs], run.seconds, seconds
        )
        for job, message in zip(jobs, messages, strict=True):
            job.call.reply(message)


class FormJob(Job):
    """A request of a known form, with a lease on its model that ends with its call.

    Args:
        call: Who asks.
        form: Its form.
        message: Its bytes.
        request_id: What the caller calls it.
    """

    __slots__ = ("call", "decode_seconds", "form", "message", "request_id")

    def __init__(self, call: Call, form: Form, message: bytes, request_id: str) -> None:
        terms = form.terms
        now = time.perf_counter()
        deadline = earliest(call.deadline, terms.timeout)
        kind = form if form.shape else None
        super().__init__(
            terms.rows, terms.outputs, deadline, now, priority=terms.priority, kind=kind
        )
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

    def submit(self) -> None:
        """Hands it to the model's worker.

        Raises:
            CallError: The queue is full.
        """
        self.form.terms.loaded.worker.submit(self)

    def answered(self, answer: Answer) -> None:
        """See `Job.answered`."""
        self.call.resume(self._reply, answer)

    def failed(self, error: Exception) -> None:
        """See `Job.failed`."""
        self.call.resume(raise_, error)

    def _reply(self, answer: Answer) -> None:
        started = time.perf_counter()
        terms = self.form.terms
        data = encode(terms, self.request_id, answer)
        seconds = time.perf_counter() - started
        terms.loaded.counters.answered([self.decode_seconds], answer.run.seconds, seconds)
        self.call.reply(data)

    def _end(self, code: int) -> None:
        give_back(self.call, self.form.terms.loaded, code, (self,))


class Forms:
    """The forms known, by the length of a request.

    Args:
        repository: The models: when they change, all forms are forgotten.
        reader: Knows what is refused.
    """

    def __init__(self, repository: Repository, reader: InputReader) -> None:
        self._repository = repository
        # Where elements are looked at before they are taken, a form says too little.
        self._may_learn = not reader.reject_nonfinite
        self._forms: dict[int, Form] = {}
        repository.on_change(self._forms.clear)

    def match(self, call: Call, message: bytes) -> FormJob | None:
        """Returns the job of a request, with a lease on its model; None where no form fits."""
        form = self._forms.get(len(message))
        if (
            form is None
            or not message.startswith(form.before)
            or not message.startswith(form.after, form.after_at)
        ):
            return None
        request_id = ""
        if form.after:
            try:
                request_id = message[len(form.before) : form.after_at].decode()
            except UnicodeDecodeError:
                return None
        if not form.terms.loaded.leases.enter():
            return None
        return FormJob(call, form, message, request_id)

    def learn(self, sent: Sent, terms: Terms, epoch: int) -> None:
        """Keeps a request's form.

        Args:
            sent: The request.
            terms: What it asks for.
            epoch: The repository's, from before its model was looked up.
        """
        form = _form(sent, terms) if self._may_learn else None
        if form is None:
            return
        if len(self._forms) >= _MOST_FORMS:
            self._forms.clear()
        self._forms[len(sent.message)] = form
        if self._repository.epoch != epoch:
            # Its model may be on the way out, and would be held on to.
            self._forms.clear()


def _form(sent: Sent, terms: Terms) -> Form | None:
    """Returns the form of a request; None where not all it says lies before its elements.

    That is where it has several inputs or none, typed contents, or fields behind its elements.
    Labels may come to point elsewhere at any time, and booleans and strings have to be looked at.
    """
    message, head = sent.message, sent.head
    if len(sent.spans) != 1 or len(terms.loaded.signature.inputs) != 1:
        return None
    _, begin, end = sent.spans[0]
    spec = next(iter(terms.loaded.signature.inputs.values()))
    if (
        end != len(message)
        or begin in (end, *range(_MOST_BYTES, end))
        or spec.type is STRING
        or spec.type.dtype.kind == "b"
        or not (head.model_version.isdecimal() or not head.model_version)
    ):
        return None
    if not head.id:
        return Form(message[:begin], b"", begin, begin, spec, tuple(head.inputs[0].shape), terms)
    # As encoders write it, the id follows the model's name and version.
    named = _ModelInferRequest(model_name=head.model_name, model_version=head.model_version)
    request_id = head.id.encode()
    field = length_delimited(_ID, request_id)
    with_id: bytes = named.SerializeToString() + field
    rest = without(message, sent.spans)[len(with_id) :]
    if not message.startswith(with_id) or parse(_ModelInferRequest, rest).id:
        return None
    before = with_id[: -len(request_id)]
    after = message[len(with_id) : begin]
    return Form(before, after, len(with_id), begin, spec, tuple(head.inputs[0].shape), terms)
