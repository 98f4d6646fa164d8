"""Requests that differ from one before in their id and their elements only.

A client sends request after request of one form: the same model, input, type, shape, parameters
and outputs. What parsing the first one and comparing it with the model has brought holds for all
of them, as long as their other bytes are the same and the model is.
"""

from dataclasses import dataclass

import numpy as np

from forwardpass.server.rpc.inputs import InputReader
from forwardpass.server.rpc.open_inference.messages import message as kind
from forwardpass.server.rpc.open_inference.request import Sent, Terms
from forwardpass.server.rpc.parse import parse
from forwardpass.server.rpc.scan import without
from forwardpass.server.runtime.repository import Repository
from forwardpass.server.runtime.signature import TensorSpec
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
    """What requests of one form have in common, their length among it.

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

    def read(self, message: bytes) -> dict[str, Array]:
        """Returns the input's array, looked at where it lies."""
        spec = self.input
        array = np.frombuffer(message, spec.type.dtype, -1, self.begin).reshape(self.shape)
        return {spec.name: array if array.flags.aligned else array.copy()}


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

    def match(self, message: bytes) -> tuple[Form, str] | None:
        """Returns a request's form, with a lease on its model, and its id; None where not known."""
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
        return (form, request_id) if form.terms.loaded.leases.enter() else None

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
