"""Why a call failed, and how that travels.

A gRPC status has a code and a sentence. Beside them we send a serialised google.rpc.Status in the
trailing metadata, as AIP-193 asks: an ErrorInfo with one of the reasons below, the offending field,
and when to try again. A program reads the reason, a person the sentence.
"""

import dataclasses
from collections.abc import Mapping
from enum import StrEnum

from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import DecodeError
from google.rpc import code_pb2, error_details_pb2, status_pb2

DOMAIN = "forwardpass"
# The trailing metadata that carries the serialised google.rpc.Status.
DETAILS_KEY = "grpc-status-details-bin"
# The trailing metadata that tells a retrying client how long to wait, in milliseconds, or never
# to try again (-1): gRPC proposal A6.
PUSHBACK_KEY = "grpc-retry-pushback-ms"


class Reason(StrEnum):
    """Why a call failed. `CODES` gives each its gRPC status code."""

    INVALID_INPUT = "INVALID_INPUT"
    MODEL_NOT_FOUND = "MODEL_NOT_FOUND"
    MODEL_FAILED = "MODEL_FAILED"
    TASK_UNSUPPORTED = "TASK_UNSUPPORTED"
    QUEUE_FULL = "QUEUE_FULL"
    SHUTTING_DOWN = "SHUTTING_DOWN"
    MODEL_LOADING = "MODEL_LOADING"
    DEADLINE_EXCEEDED = "DEADLINE_EXCEEDED"
    CANCELLED = "CANCELLED"
    UNAUTHENTICATED = "UNAUTHENTICATED"
    PERMISSION_DENIED = "PERMISSION_DENIED"
    UNIMPLEMENTED = "UNIMPLEMENTED"
    INTERNAL = "INTERNAL"


CODES: Mapping[Reason, int] = {
    Reason.INVALID_INPUT: code_pb2.INVALID_ARGUMENT,
    Reason.MODEL_NOT_FOUND: code_pb2.NOT_FOUND,
    Reason.MODEL_FAILED: code_pb2.FAILED_PRECONDITION,
    Reason.TASK_UNSUPPORTED: code_pb2.FAILED_PRECONDITION,
    Reason.QUEUE_FULL: code_pb2.RESOURCE_EXHAUSTED,
    Reason.SHUTTING_DOWN: code_pb2.UNAVAILABLE,
    Reason.MODEL_LOADING: code_pb2.UNAVAILABLE,
    Reason.DEADLINE_EXCEEDED: code_pb2.DEADLINE_EXCEEDED,
    Reason.CANCELLED: code_pb2.CANCELLED,
    Reason.UNAUTHENTICATED: code_pb2.UNAUTHENTICATED,
    Reason.PERMISSION_DENIED: code_pb2.PERMISSION_DENIED,
    Reason.UNIMPLEMENTED: code_pb2.UNIMPLEMENTED,
    Reason.INTERNAL: code_pb2.INTERNAL,
}


@dataclasses.dataclass(frozen=True, slots=True)
class Failure:
    """What a caller learns of a failed call.

    Attributes:
        reason: Why, for programs.
        message: What was wrong, what was expected, what to do.
        field: The request field at fault, such as "inputs.image.shape"; empty where none is.
        metadata: The facts in the message, by name.
        retry_after: Seconds after which the same call may succeed; None where it will not.
        request_id: What to quote to the operator; empty where unknown.
    """

    reason: Reason
    message: str
    field: str = ""
    metadata: Mapping[str, str] = dataclasses.field(default_factory=dict, hash=False)
    retry_after: float | None = None
    request_id: str = ""

    @property
    def code(self) -> int:
        """The gRPC status code, such as 3 for INVALID_ARGUMENT."""
        return CODES[self.reason]

    def to_details(self) -> bytes:
        """Returns the serialised google.rpc.Status."""
        status = status_pb2.Status(code=self.code, message=self.message)
        details = [
            error_details_pb2.ErrorInfo(
                reason=self.reason, domain=DOMAIN, metadata=dict(self.metadata)
            )
        ]
        for detail in (*details, *self._optional_details()):
            status.details.add().Pack(detail)
        details_bytes: bytes = status.SerializeToString()
        return details_bytes

    def _optional_details(
        self,
    ) -> list[
        error_details_pb2.BadRequest | error_details_pb2.RetryInfo | error_details_pb2.RequestInfo
    ]:
        details: list[
            error_details_pb2.BadRequest
            | error_details_pb2.RetryInfo
            | error_details_pb2.RequestInfo
        ] = []
        if self.field:
            violation = error_details_pb2.BadRequest.FieldViolation(
                field=self.field, description=self.message
            )
            details.append(error_details_pb2.BadRequest(field_violations=[violation]))
        if self.retry_after is not None:
            delay = Duration()
            delay.FromNanoseconds(round(self.retry_after * 1e9))
            details.append(error_details_pb2.RetryInfo(retry_delay=delay))
        if self.request_id:
            details.append(error_details_pb2.RequestInfo(request_id=self.request_id))
        return details

    @classmethod
    def from_details(cls, details: bytes) -> "Failure | None":
        """Returns the failure in a serialised google.rpc.Status; None if it is none of ours."""
        try:
            status = status_pb2.Status.FromString(details)
        except DecodeError:
            return None
        info = error_details_pb2.ErrorInfo()
        bad_request = error_details_pb2.BadRequest()
        retry = error_details_pb2.RetryInfo()
        request = error_details_pb2.RequestInfo()
        for detail in status.details:
            for message in (info, bad_request, retry, request):
                detail.Unpack(message)
        if info.domain != DOMAIN or info.reason not in Reason.__members__:
            return None
        violations = bad_request.field_violations
        return cls(
            reason=Reason(info.reason),
            message=status.message,
            field=violations[0].field if violations else "",
            metadata=dict(info.metadata),
            retry_after=(
                retry.retry_delay.ToTimedelta().total_seconds()
                if retry.HasField("retry_delay")
                else None
            ),
            request_id=request.request_id,
        )
