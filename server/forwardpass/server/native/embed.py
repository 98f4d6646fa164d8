"""Embed of InferenceService."""

from functools import partial

import numpy as np

from forwardpass.server.errors import CallError, InvalidInput, nearest, quote
from forwardpass.server.loading.loaded import Loaded
from forwardpass.server.native.outputs import normalized
from forwardpass.server.native.templates import encode_embeddings
from forwardpass.server.repository.repository import Repository
from forwardpass.server.rpc.execution import Execution
from forwardpass.server.rpc.inputs import InputReader, preparation_of
from forwardpass.server.rpc.receive import Received, receive
from forwardpass.server.rpc.request_templates import Plan, RequestTemplates
from forwardpass.server.rpc.schema import EMBED
from forwardpass.server.transport.call import Call
from forwardpass.v1.inference_service_pb2 import EmbedRequest, EmbedResponse, EmbedStreamRequest
from forwardpass.wire import Array, Reason, to_tensor


class Embed:
    """Answers Embed.

    Attributes:
        templates: Of its requests.

    Args:
        repository: The models.
        reader: Makes arrays of requests.
    """

    def __init__(self, repository: Repository, reader: InputReader) -> None:
        self._repository = repository
        self._reader = reader
        self.templates = RequestTemplates(repository, reader)

    async def embed(self, call: Call, message: bytes) -> bytes:
        """Answers an EmbedRequest."""
        received = receive(EMBED, message)
        return await self.answer(call, received, received.head, self.templates)

    async def answer(
        self,
        call: Call,
        received: Received[EmbedRequest] | Received[EmbedStreamRequest],
        request: EmbedRequest,
        templates: RequestTemplates | None,
    ) -> bytes:
        """Returns the answer to a request, serialised; all as in `Predict.answer`."""
        with Execution(call, self._repository, request.model, timed=request.timing) as execution:
            execution.check_room()
            loaded = execution.loaded
            output = _embedding_output(loaded, request.output)
            prepared = preparation_of(loaded, request)
            # Not the request itself, which would be kept with all its elements.
            vectors_of = partial(_vectors, request.normalize, request.half_precision)
            inputs = await self._reader.read(call, loaded, received, request)
            rows = loaded.signature.check(inputs)
            # What is remembered of a request may share a run.
            if templates is not None and not request.alone:
                plan = Plan(
                    loaded,
                    rows,
                    (output,),
                    loaded.config.first_priority,
                    loaded.config.timeout(None),
                )
                is_plain = not request.timing and prepared is None
                encode = partial(encode_embeddings, plan, vectors_of) if is_plain else None
                templates.remember(received, request.model, inputs, plan, encode, execution.epoch)
            answer = await execution.run(inputs, rows, (output,), alone=request.alone)
            response = execution.complete(
                answer,
                lambda: EmbedResponse(
                    embeddings=to_tensor(vectors_of(answer.outputs[output])),
                    space_id=loaded.space_of(output, prepared),
                ),
            )
            return response.SerializeToString()


def _vectors(normalize: bool, half_precision: bool, vectors: Array) -> Array:
    """Returns embeddings, (rows, dimension), in the form that is asked for."""
    vectors = vectors.astype(np.float32, copy=False)
    if normalize:
        vectors = normalized(vectors)
    return vectors.astype(np.float16) if half_precision else vectors


def _embedding_output(loaded: Loaded, name: str) -> str:
    spaces = loaded.embedding_spaces
    if not spaces:
        raise CallError(
            Reason.TASK_UNSUPPORTED,
            f"model {quote(loaded.name)} has no embedding output; "
            f"it answers {', '.join(loaded.calls)}",
            field="model",
        )
    if not name:
        return next(iter(spaces))
    if name not in spaces:
        raise InvalidInput(
            f"no embedding output {quote(name)}{nearest(name, spaces)}; "
            f"the model has {', '.join(map(quote, spaces))}",
            field="output",
        )
    return name
