"""ModelInfer."""

import time
from functools import partial

from forwardpass.server.rpc.execution import Execution
from forwardpass.server.rpc.inputs import InputReader
from forwardpass.server.rpc.open_inference.forms import Forms
from forwardpass.server.rpc.open_inference.reference import reference
from forwardpass.server.rpc.open_inference.request import Terms, compare, receive
from forwardpass.server.rpc.open_inference.response import encode
from forwardpass.server.runtime.repository import Repository
from forwardpass.server.scheduling.job import Answer
from forwardpass.server.transport.call import Call
from forwardpass.wire import Array


class Inference:
    """Answers ModelInfer.

    Args:
        repository: The models.
        reader: Makes arrays of strings, and knows what is refused.
    """

    def __init__(self, repository: Repository, reader: InputReader) -> None:
        self._repository = repository
        self._reader = reader
        self._forms = Forms(repository, reader)

    def infer(self, call: Call, message: bytes) -> None:
        """Answers a ModelInferRequest."""
        known = self._forms.match(message)
        if known is not None:
            form, request_id = known
            execution = Execution(call, form.terms.loaded)
            _run(call, execution, form.terms, request_id, form.read(message))
            return
        epoch = self._repository.epoch
        sent = receive(message)
        loaded = self._repository.find(reference(sent.head.model_name, sent.head.model_version))
        execution = Execution(call, loaded)
        execution.check_room()
        terms, inputs = compare(sent, loaded, self._reader)
        self._forms.learn(sent, terms, epoch)
        _run(call, execution, terms, sent.head.id, inputs)


def _run(
    call: Call, execution: Execution, terms: Terms, request_id: str, inputs: dict[str, Array]
) -> None:
    execution.run(
        inputs,
        terms.rows,
        terms.outputs,
        partial(_reply, call, execution, terms, request_id),
        priority=terms.priority,
        timeout=terms.timeout,
        kind=terms,
    )


def _reply(call: Call, execution: Execution, terms: Terms, request_id: str, answer: Answer) -> None:
    started = time.perf_counter()
    data = encode(terms, request_id, answer)
    execution.count(answer, time.perf_counter() - started)
    call.reply(data)
