"""grpc.health.v1: Check and Watch, for the server and for each model by its name."""

from grpc_health.v1 import health_pb2

from forwardpass.server.errors import CallError, quote
from forwardpass.server.repository.readiness import Readiness
from forwardpass.server.rpc.receive import parse
from forwardpass.server.transport.stream_call import StreamCall
from forwardpass.server.transport.task import Signal
from forwardpass.wire import Reason

_Response = health_pb2.HealthCheckResponse


class Health:
    """Answers Check and Watch.

    Args:
        readiness: What is asked about.
    """

    def __init__(self, readiness: Readiness) -> None:
        self._readiness = readiness
        self._answers: dict[bool | None, bytes] = {
            ready: _Response(status=status).SerializeToString()
            for ready, status in (
                (None, _Response.SERVICE_UNKNOWN),
                (False, _Response.NOT_SERVING),
                (True, _Response.SERVING),
            )
        }

    def check(self, message: bytes) -> bytes:
        """Answers a HealthCheckRequest once."""
        request = parse(health_pb2.HealthCheckRequest, message)
        ready = self._readiness.of(request.service)
        if ready is None:
            raise CallError(
                Reason.MODEL_NOT_FOUND,
                f"no service or model {quote(request.service)}",
                field="service",
            )
        return self._answers[ready]

    async def watch(self, call: StreamCall, message: bytes) -> None:
        """Answers a HealthCheckRequest now and after each change, until the server drains."""
        request = parse(health_pb2.HealthCheckRequest, message)
        changed = Signal(call)
        forget = self._readiness.watch(changed.set)
        try:
            told: bytes | None = None
            while True:
                # Asked before the status, which then tells of the drain too.
                draining = self._readiness.draining
                answer = self._answers[self._readiness.of(request.service)]
                if answer != told:
                    told = answer
                    await call.send(answer)
                if draining:
                    return
                await changed.wait()
        finally:
            forget()
