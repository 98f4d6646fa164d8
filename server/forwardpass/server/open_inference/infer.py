"""ModelInfer."""

import time
from functools import partial

from forwardpass.server.open_inference.reference import reference
from forwardpass.server.open_inference.request import compare
from forwardpass.server.open_inference.response import encode, encode_alike
from forwardpass.server.repository.repository import Repository
from forwardpass.server.rpc.execution import Execution
from forwardpass.server.rpc.inputs import InputReader
from forwardpass.server.rpc.receive import receive
from forwardpass.server.rpc.request_templates import RequestTemplates
from forwardpass.server.rpc.schema import INFER
from forwardpass.server.transport.call import Call


class Infer:
    """Answers ModelInfer.

    Attributes:
        templates: Of its requests.

    Args:
        repository: The models.
        reader: Makes arrays of strings, and knows what is refused.
    """

    def __init__(self, repository: Repository, reader: InputReader) -> None:
        self._repository = repository
        self._reader = reader
        self.templates = RequestTemplates(repository, reader)

    async def infer(self, call: Call, message: bytes) -> bytes:
        """Answers a ModelInferRequest."""
        received = receive(INFER, message)
        head = received.head
        model = reference(head.model_name, head.model_version)
        with Execution(call, self._repository, model) as execution:
            execution.check_room()
            plan, classes, inputs = compare(call, received, execution.loaded, self._reader)
            alike = None if classes else partial(encode_alike, plan)
            self.templates.remember(received, model, inputs, plan, alike, execution.epoch)
            answer = await execution.run(
                inputs, plan.rows, plan.outputs, priority=plan.priority, timeout=plan.timeout
            )
            started = time.perf_counter()
            data = encode(plan, classes, head.id, answer)
            execution.count(answer, time.perf_counter() - started)
            return data
