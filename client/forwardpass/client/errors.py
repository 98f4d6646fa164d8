"""What can go wrong with a call: one class a reason, and the one place where gRPC's errors end.

    ForwardpassError
    ├── InvalidInput      the request is wrong, and will be however often it is sent
    ├── ModelNotFound     no such model, or no such version of it
    ├── ModelFailed       the version is there, and cannot be served
    ├── WrongTask         the model answers, but not this kind of call
    ├── Overloaded        the server's queue stayed full through every retry
    ├── MessageTooLarge   a request or an answer is over the size limit of a message
    ├── Unavailable       no server there, or one that is starting, loading or stopping
    ├── TimedOut          no answer within the timeout
    ├── Cancelled         the call was given up before its answer, or the client was closed
    ├── Forked            gRPC cannot be used here: the process was forked after a call
    ├── AccessDenied      the token is missing, wrong, or not enough
    ├── Unsupported       the server does not know the call
    └── ServerError       the server's own fault; quote `request_id` to its operator

What no server could take, such as a negative timeout, is an `InvalidSetting`, which is an
InvalidInput and a ValueError.
"""

from collections.abc import Iterable, Mapping
from typing import Protocol, cast

import grpc

from forwardpass.v1.inference_service_pb2 import Error
from forwardpass.wire import DETAILS_KEY, Failure, Reason


class ForwardpassError(Exception):
    """A call that failed.

    Attributes:
        message: What was wrong, what was expected, what to do.
        reason: Why, for programs: a `forwardpass.wire.Reason`, or the name of the gRPC status where
            something on the way, and no forwardpass server, gave the answer.
        code: The gRPC status.
        field: The part of the request at fault, such as "inputs.image.shape"; empty where none is.
        metadata: The facts in the message, by name.
        retry_after: Seconds after which the same call may succeed; None where it will not, or
            nobody knows.
        request_id: What to quote to the server's operator; empty where unknown.
    """

    reason: str = Reason.INTERNAL
    code: grpc.StatusCode = grpc.StatusCode.UNKNOWN

    def __init__(
        self,
        message: str,
        *,
        reason: str | None = None,
        code: grpc.StatusCode | None = None,
        field: str = "",
        metadata: Mapping[str, str] | None = None,
        retry_after: float | None = None,
        request_id: str = "",
    ) -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason or type(self).reason
        self.code = code or type(self).code
        self.field = field
        self.metadata = dict(metadata or {})
        self.retry_after = retry_after
        self.request_id = request_id


class Status(Protocol):
    """What the error of a failed call has, whether it was awaited or not."""

    def code(self) -> grpc.StatusCode: ...
    def details(self) -> str | None: ...
    def trailing_metadata(self) -> Iterable[tuple[str, str | bytes]] | None: ...


class InvalidInput(ForwardpassError):
    """The request is wrong; `field` names the part."""

    reason = Reason.INVALID_INPUT
    code = grpc.StatusCode.INVALID_ARGUMENT


class InvalidSetting(InvalidInput, ValueError):
    """What no server could take, such as a negative timeout: nothing was sent."""


class ModelNotFound(ForwardpassError):
    """No such model, or no such version of it."""

    reason = Reason.MODEL_NOT_FOUND
    code = grpc.StatusCode.NOT_FOUND


class ModelFailed(ForwardpassError):
    """The version is there, and cannot be served."""

    reason = Reason.MODEL_FAILED
    code = grpc.StatusCode.FAILED_PRECONDITION


class WrongTask(ForwardpassError):
    """The model answers, but not this kind of call."""

    reason = Reason.TASK_UNSUPPORTED
    code = grpc.StatusCode.FAILED_PRECONDITION


class Overloaded(ForwardpassError):
    """The server's queue stayed full through every retry."""

    reason = Reason.QUEUE_FULL
    code = grpc.StatusCode.RESOURCE_EXHAUSTED


class MessageTooLarge(ForwardpassError):
    """A request or an answer is over the size limit of a message."""

    reason = "RESOURCE_EXHAUSTED"
    code = grpc.StatusCode.RESOURCE_EXHAUSTED


class Unavailable(ForwardpassError):
    """No server there, or one that is starting, loading the model or stopping."""

    reason = "UNAVAILABLE"
    code = grpc.StatusCode.UNAVAILABLE


class TimedOut(ForwardpassError):
    """No answer within the timeout."""

    reason = Reason.DEADLINE_EXCEEDED
    code = grpc.StatusCode.DEADLINE_EXCEEDED


class Cancelled(ForwardpassError):
    """The call was given up before its answer."""

    reason = Reason.CANCELLED
    code = grpc.StatusCode.CANCELLED


class Forked(ForwardpassError):
    """gRPC cannot be used in this process: it was forked from one that had made a call."""

    reason = "FORKED"
    code = grpc.StatusCode.FAILED_PRECONDITION


class AccessDenied(ForwardpassError):
    """The token is missing or wrong (UNAUTHENTICATED), or not enough (PERMISSION_DENIED)."""

    reason = "UNAUTHENTICATED"
    code = grpc.StatusCode.UNAUTHENTICATED


class Unsupported(ForwardpassError):
    """The server does not know the call."""

    reason = Reason.UNIMPLEMENTED
    code = grpc.StatusCode.UNIMPLEMENTED


class ServerError(ForwardpassError):
    """The server's own fault."""

    reason = Reason.INTERNAL
    code = grpc.StatusCode.INTERNAL


BY_REASON: Mapping[Reason, type[ForwardpassError]] = {
    Reason.INVALID_INPUT: InvalidInput,
    Reason.MODEL_NOT_FOUND: ModelNotFound,
    Reason.MODEL_FAILED: ModelFailed,
    Reason.TASK_UNSUPPORTED: WrongTask,
    Reason.QUEUE_FULL: Overloaded,
    Reason.SHUTTING_DOWN: Unavailable,
    Reason.MODEL_LOADING: Unavailable,
    Reason.DEADLINE_EXCEEDED: TimedOut,
    Reason.CANCELLED: Cancelled,
    Reason.UNAUTHENTICATED: AccessDenied,
    Reason.PERMISSION_DENIED: AccessDenied,
    Reason.UNIMPLEMENTED: Unsupported,
    Reason.INTERNAL: ServerError,
}
# For answers without our details: from the gRPC library, a proxy, or another kind of server.
_CODES = {code.value[0]: code for code in grpc.StatusCode}
_BY_CODE: Mapping[grpc.StatusCode, type[ForwardpassError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidInput,
    grpc.StatusCode.OUT_OF_RANGE: InvalidInput,
    grpc.StatusCode.NOT_FOUND: ModelNotFound,
    grpc.StatusCode.RESOURCE_EXHAUSTED: Overloaded,
    grpc.StatusCode.UNAVAILABLE: Unavailable,
    grpc.StatusCode.DEADLINE_EXCEEDED: TimedOut,
    grpc.StatusCode.CANCELLED: Cancelled,
    grpc.StatusCode.UNAUTHENTICATED: AccessDenied,
    grpc.StatusCode.PERMISSION_DENIED: AccessDenied,
    grpc.StatusCode.UNIMPLEMENTED: Unsupported,
}
# How the library's words begin where a call never came as far as a connection. Another release may
# have others: such a call is then not made again, and said to be broken off.
UNSENT = (
    "connections to all backends failing",
    "failed to connect to all addresses",
    "errors resolving",
    "DNS resolution failed",
)
_NOT_THERE = "is the server running, and is this its address?"
_UNRESOLVED = "the name cannot be resolved; is it spelt right, and known where this runs?"
# Some of the library's words, and what to do about a connection that failed with them.
_NO_CONNECTION: Mapping[str, str] = {
    "CERTIFICATE_VERIFY_FAILED": (
        "the server's certificate is signed by nobody that is trusted here; trust who signed it, "
        "by Tls(ca=…) or --tls-ca"
    ),
    "Hostname Verification Check failed": (
        "the server's certificate is for another name than that of this address; call it by a "
        "name that its certificate has"
    ),
    "WRONG_VERSION_NUMBER": (
        "what answers there does not speak TLS; call it without, or by another port"
    ),
    "Socket closed": (
        "the server closed it at once; it may want TLS (Tls(ca=…) or --tls-ca), or a certificate "
        "of the caller's, or another one (Tls(certificate=…, key=…))"
    ),
    "errors resolving": _UNRESOLVED,
    "DNS resolution failed": _UNRESOLVED,
}
# Of these, what another try would not mend.
HOPELESS = (
    "CERTIFICATE_VERIFY_FAILED",
    "Hostname Verification Check failed",
    "WRONG_VERSION_NUMBER",
)
# What grpc.aio says, with INTERNAL, of a stream that has ended as it writes to it.
_NOT_WRITTEN = "Internal error from Core"
# Its words where a server, or a proxy, has refused a stream (REFUSED_STREAM) and begun nothing.
REFUSED_STREAM = "RST_STREAM with error code 7"
# The library's words for a message over the limit, in either direction, compressed or not.
_TOO_LARGE = "larger than max"


def from_stream_error(error: Error) -> ForwardpassError:
    """Returns what an error means that one request of a stream was answered with."""
    code = _CODES.get(error.code, grpc.StatusCode.UNKNOWN)
    if error.reason not in tuple(Reason):
        return _BY_CODE.get(code, ServerError)(error.message, reason=error.reason, code=code)
    reason = Reason(error.reason)
    return BY_REASON[reason](error.message, reason=reason, code=code)


def from_rpc_error(error: grpc.RpcError, target: str, timeout: float) -> ForwardpassError:
    """Returns what a failed call to `target` means; `timeout` is what it was given, in seconds."""
    status = cast("Status", error)
    code = status.code()
    trailers = dict(status.trailing_metadata() or ())
    details = trailers.get(DETAILS_KEY)
    failure = Failure.from_details(details) if isinstance(details, bytes) else None
    if failure is not None:
        return BY_REASON[failure.reason](
            failure.message,
            reason=failure.reason,
            code=code,
            field=failure.field,
            metadata=failure.metadata,
            retry_after=failure.retry_after,
            request_id=failure.request_id,
        )
    text = status.details() or "no details"
    kind = _BY_CODE.get(code, ServerError)
    if text == _NOT_WRITTEN:
        kind, code = Unavailable, grpc.StatusCode.UNAVAILABLE
    if REFUSED_STREAM in text:
        kind = Overloaded
    if kind is Overloaded and _TOO_LARGE in text:
        kind = MessageTooLarge
    return kind(_explain(kind, text, target, timeout), reason=code.name, code=code)


def _explain(kind: type[ForwardpassError], text: str, target: str, timeout: float) -> str:
    """Adds what to do to the library's own words."""
    if kind is Unavailable and not text.startswith(UNSENT):
        return (
            f"the connection to {target} broke before an answer ({text}): "
            "the call may have been made, so it is not made again"
        )
    if kind is Unavailable:
        why = next((why for words, why in _NO_CONNECTION.items() if words in text), _NOT_THERE)
        return f"no connection to {target}: {why} ({text})"
    if kind is TimedOut:
        return f"no answer from {target} within {timeout:g} s: allow more time or send fewer rows"
    if kind is MessageTooLarge:
        return f"{text} bytes: ask for fewer rows in a call, or raise the limit on both sides"
    if kind is Unsupported:
        return f"{target} does not know this call ({text}): is it a forwardpass server?"
    if REFUSED_STREAM in text:
        text = f"takes no more calls on this connection ({text}): have fewer at once"
    return f"{target}: {text}"
