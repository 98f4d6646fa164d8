"""Holds a request against what its model takes, before it is parsed.

The transport's limit is one for all models. A model that states how many rows a request may have,
and how long each is, takes no more bytes of tensors than that: what is longer by far is refused
without being copied, and what is longer by little is told by its rows.
"""

from collections.abc import Callable
from typing import Generic, TypeVar

from forwardpass.server.errors import CallError, InvalidInput
from forwardpass.server.onnx.signature import Signature
from forwardpass.server.repository.repository import Repository
from forwardpass.server.rpc.parse import SCANNED_FROM, parse
from forwardpass.server.rpc.scan import MAX_BYTES, Field, Layout, scan, without
from forwardpass.v1.inference_service_pb2 import EmbedRequest, GenerateRequest, PredictRequest
from forwardpass.v1.model_service_pb2 import ModelReference

R = TypeVar("R", bound=PredictRequest | EmbedRequest | GenerateRequest)
# What a stream wraps each request in.
_WRAPPER = Layout({1: Field("requests", 1, payload=True)})


class Limit(Generic[R]):
    """What a request may bring for its model.

    Args:
        kind: The request.
        parts: Its fields that may be long, all as payload.
        beside: The tags of those that are no tensors.
        most: The most bytes of tensors that a model with a signature takes; 0 for any number.
    """

    def __init__(
        self,
        kind: type[R],
        parts: Layout,
        beside: tuple[int, ...],
        most: Callable[[Signature], int],
    ) -> None:
        self._kind = kind
        self._parts = parts
        self._beside = beside
        self._most = most

    def check(
        self,
        repository: Repository,
        message: bytes | memoryview,
        before: ModelReference | None = None,
    ) -> None:
        """Refuses a request that is too long for its model; one without a model is let pass.

        Args:
            repository: The models.
            message: The request.
            before: The model that is meant where the request names none.

        Raises:
            InvalidInput: It is too long, or no such message.
        """
        if len(message) < SCANNED_FROM:
            return
        spans = scan(message, self._parts, self._kind.DESCRIPTOR.full_name)
        size = sum(end - begin for begin, _, end in spans if message[begin] not in self._beside)
        model = parse(self._kind, without(message, spans)).model
        try:
            loaded = repository.describe(model if model.name or before is None else before).loaded
        except CallError:
            # What is wrong with the reference is told where it is used.
            return
        most = loaded and self._most(loaded.signature)
        # What is said of tensors, their names and shapes, is counted here but is no part of rows.
        if most and size > most + MAX_BYTES:
            raise InvalidInput(
                f"{size} bytes of tensors, but the model takes at most {most} in a request; "
                "send fewer rows",
                field="inputs",
                expected=most,
                got=size,
            )

    def check_streamed(
        self, repository: Repository, message: bytes, before: ModelReference | None = None
    ) -> None:
        """Refuses the request in a message of a stream, as `check` does."""
        if len(message) >= SCANNED_FROM:
            for _, begin, end in scan(message, _WRAPPER):
                self.check(repository, memoryview(message)[begin:end], before)
