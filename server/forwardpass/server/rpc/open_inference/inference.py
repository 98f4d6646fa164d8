"""ModelInfer."""

import time

from forwardpass.server.rpc.inputs import InputReader
from forwardpass.server.rpc.open_inference.reference import reference
from forwardpass.server.rpc.open_inference.request import Request, compare, receive
from forwardpass.server.rpc.open_inference.response import encode
from forwardpass.server.runtime.repository import Repository
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

    def infer(self, call: Call, message: bytes) -> None:
        """Answers a ModelInferRequest."""
        sent = receive(message)
        loaded = self._repository.find(reference(sent.head.model_name, sent.head.model_version))

        def ended(code: int) -> None:
            loaded.counters.ended(call.elapsed, failed=bool(code))
            loaded.leases.leave()

        call.on_end(ended)
        loaded.worker.check_room()
        request = compare(sent, loaded, self._reader)
        decode_seconds = call.elapsed

        def answered(answer: Answer) -> None:
            call.resume(lambda: call.reply(encode_timed(request, answer, decode_seconds)))

        def failed(error: Exception) -> None:
            def end() -> None:
                raise error

            call.resume(end)

        job = request.job(call.deadline, answered, failed)
        call.on_end(lambda _: job.abandon())
        loaded.worker.submit(job)


def encode_timed(request: Request, answer: Answer, decode_seconds: float) -> bytes:
    """Returns the bytes of the answer, and counts where its time went."""
    started = time.perf_counter()
    data = encode(request, answer)
    encode_seconds = time.perf_counter() - started
    request.loaded.counters.answered(decode_seconds, answer.compute_seconds, encode_seconds)
    return data
