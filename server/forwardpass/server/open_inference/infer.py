"""ModelInfer."""

import time
from functools import partial

from forwardpass.server.open_inference.reference import reference
from forwardpass.server.open_inference.request import compare, place, receive
from forwardpass.server.open_inference.response import encode, encode_alike
from forwardpass.server.repository.repository import Repository
from forwardpass.server.rpc.execution import Execution
from forwardpass.server.rpc.inputs import InputReader
from forwardpass.server.rpc.request_templates import RequestTemplates
from forwardpass.server.scheduling.job import Answer
from forwardpass.server.transport.call import Call


class Inference:
    """Answers ModelInfer.

    Args:
        repository: The models.
        reader: Makes arrays of strings, and knows what is refused.
    """

    def __init__(self, repository: Repository, reader: InputReader) -> None:
        self._repository = repository
        self._reader = reader
        self._forms = RequestTemplates(repository, reader)

    def infer(self, call: Call, message: bytes) -> None:
        """Answers a ModelInferRequest."""
        if self._forms.take(call, message):
            return
        epoch = self._repository.epoch
        sent = receive(message)
        loaded = self._repository.find(reference(sent.head.model_name, sent.head.model_version))
        execution = Execution(call, loaded)
        execution.check_room()
        terms, classes, inputs = compare(sent, loaded, self._reader)
        where = place(sent)
        if where is not None and not classes:
            shape = next(iter(inputs.values())).shape
            self._forms.learn(message, where, shape, terms, partial(encode_alike, terms), epoch)

        def reply(answer: Answer) -> None:
            started = time.perf_counter()
            data = encode(terms, classes, sent.head.id, answer)
            execution.count(answer, time.perf_counter() - started)
            call.reply(data)

        execution.run(
            inputs,
            terms.rows,
            terms.outputs,
            reply,
            priority=terms.priority,
            timeout=terms.timeout,
        )
