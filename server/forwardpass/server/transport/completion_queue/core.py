"""What is used of `grpc._cython.cygrpc`, with types.

- `Server(arguments, xds)`, `register_completion_queue`, `add_http2_port` (0 when it cannot bind),
  `start`, `request_call(call_queue, server_queue, tag)`, `shutdown(queue, tag)`,
  `cancel_all_calls`, `destroy`.
- `CompletionQueue.poll(deadline)`: the next event; at most until the deadline, by the wall clock.
- Every event has `completion_type`, `success` and our `tag`. That of a requested call has `call`,
  `call_details` (`method` as bytes, `deadline` by the wall clock) and `invocation_metadata`; that
  of a batch has `batch_operations`, in our order.
- `Call.start_server_batch(operations, tag)`, from any thread. A batch without operations comes back
  as an event at once, which is how another thread wakes ours. `Call.peer()`.
- `server_credentials_ssl_dynamic_cert_config(first, fetch, force_client_certificates)`.
- Operations: send initial metadata, message and status; receive message and close. Those that send
  the same at every call hold nothing of a call, and are made once.
"""

from functools import partial
from typing import Any, Protocol, TypeAlias

from grpc._cython import cygrpc  # type: ignore[attr-defined]  # it has no stubs

from forwardpass.server.transport.credentials import credential_arguments
from forwardpass.server.transport.listener import Listener

# Called with the event that it was the tag of.
Event: TypeAlias = Any


class Tag(Protocol):
    """What is to be done when an operation is complete."""

    def __call__(self, event: Event, /) -> None:
        """Takes the event."""


TIMEOUT = cygrpc.CompletionType.queue_timeout
NO_FLAGS = 0
INITIAL_METADATA = cygrpc.SendInitialMetadataOperation((), NO_FLAGS)
STATUS_OK = cygrpc.SendStatusFromServerOperation((), 0, b"", NO_FLAGS)
# Where nobody asks whether the caller had gone.
CLOSE = cygrpc.ReceiveCloseOnServerOperation(NO_FLAGS)


# These make an operation: the first's `message()` is None when there is none, the second's
# `cancelled()` tells whether the caller has gone, the third takes the bytes to send and `NO_FLAGS`.
receive_message = partial(cygrpc.ReceiveMessageOperation, NO_FLAGS)
receive_close = partial(cygrpc.ReceiveCloseOnServerOperation, NO_FLAGS)
send_message = cygrpc.SendMessageOperation


def send_status(code: int, details: str, trailing: tuple[tuple[str, str | bytes], ...]) -> Any:
    """Returns the operation."""
    return cygrpc.SendStatusFromServerOperation(trailing, code, details.encode(), NO_FLAGS)


def create_server(listener: Listener) -> tuple[Any, Any, int]:
    """Returns a server that has not started, its completion queue, and the port it has bound.

    Raises:
        OSError: The address cannot be bound.
    """
    server = cygrpc.Server(listener.channel_arguments(), False)  # no xDS
    queue = cygrpc.CompletionQueue()
    server.register_completion_queue(queue)
    credentials = None
    if listener.certificates is not None:
        credentials = cygrpc.server_credentials_ssl_dynamic_cert_config(
            *credential_arguments(listener.certificates)
        )
    try:
        port = listener.bind(lambda address: server.add_http2_port(address.encode(), credentials))
    except OSError:
        server.destroy()
        raise
    return server, queue, port
