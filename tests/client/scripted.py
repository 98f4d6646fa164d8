"""A server that answers as it is told, for what only the client does; real gRPC all the same."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

import grpc

from forwardpass.client import Client
from forwardpass.v1 import inference_service_pb2 as pb
from forwardpass.wire import CODES, DETAILS_KEY, PUSHBACK_KEY, Failure

_STATUS = {code.value[0]: code for code in grpc.StatusCode}


@dataclass(frozen=True)
class Refusal:
    """A status to end a call with: ours, with details, or a bare one."""

    code: grpc.StatusCode
    message: str = ""
    details: bytes | None = None
    pushback: str | None = None

    @classmethod
    def of(cls, failure: Failure, pushback: str | None = None) -> "Refusal":
        code = _STATUS[CODES[failure.reason]]
        return cls(code, failure.message, failure.to_details(), pushback)

    def end(self, context: grpc.ServicerContext) -> NoReturn:
        trailers: list[tuple[str, str | bytes]] = []
        if self.details is not None:
            trailers.append((DETAILS_KEY, self.details))
        if self.pushback is not None:
            trailers.append((PUSHBACK_KEY, self.pushback))
        context.set_trailing_metadata(tuple(trailers))
        context.abort(self.code, self.message)


@dataclass(frozen=True)
class Seen:
    """One attempt, as the server saw it; `caller` is the name in the caller's certificate."""

    request: pb.PredictRequest
    seconds_left: float
    metadata: dict[str, str | bytes]
    peer: str
    caller: bytes


Step = Refusal | pb.PredictResponse | Callable[[], pb.PredictResponse]


@dataclass
class ScriptedServer:
    """Answers Predict with one step after the other, and the last one from then on.

    Generate it answers with `generated`.
    """

    steps: list[Step]
    generated: pb.GenerateResponse
    seen: list[Seen] = field(default_factory=list)
    target: str = ""

    def predict(
        self, request: pb.PredictRequest, context: grpc.ServicerContext
    ) -> pb.PredictResponse:
        step = self.steps[min(len(self.seen), len(self.steps) - 1)]
        names: Sequence[Any] = context.auth_context().get("x509_common_name", [b""])
        metadata = dict(context.invocation_metadata())
        seen = Seen(request, context.time_remaining(), metadata, context.peer(), names[0])
        self.seen.append(seen)
        if isinstance(step, Refusal):
            step.end(context)
        return step() if callable(step) else step

    def handler(self) -> grpc.GenericRpcHandler:
        """Serves these two, and no other call."""
        predict = grpc.unary_unary_rpc_method_handler(
            self.predict, pb.PredictRequest.FromString, pb.PredictResponse.SerializeToString
        )
        generate = grpc.unary_unary_rpc_method_handler(
            lambda _request, _context: self.generated,
            pb.GenerateRequest.FromString,
            pb.GenerateResponse.SerializeToString,
        )
        return grpc.method_handlers_generic_handler(
            "forwardpass.v1.InferenceService", {"Predict": predict, "Generate": generate}
        )


StartScripted = Callable[..., ScriptedServer]
Connect = Callable[..., Client]
