"""Where a transport listens, and the limits of a connection."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from forwardpass.server.transport.address import SOCKET, refused, try_to_bind
from forwardpass.server.transport.certificate_files import CertificateFiles
from forwardpass.server.transport.socket_file import claimed

# How long a connection may take to become one, TLS and all.
HANDSHAKE_SECONDS = 10.0
# How soon a ping may follow another while nothing else is sent. Go's clients ping every 10 s at
# most, and the network may bring two of them closer together.
PING_SECONDS = 5.0
# The most calls on one connection, where no more may run; a client keeps those beyond to itself
# until others have ended. So many connections' worth of calls that are refused is what a newcomer
# may have to wait for.
CALLS_OF_CONNECTION = 256
# Of a call's metadata, by gRPC's count, which adds 32 to each pair. With the two limits that core
# has set apart, it refuses at random what lies between them.
_METADATA_BYTES = 8_192
# Calls that core has taken in and we have not.
_PENDING_CALLS = 16_384
_NONE, _GZIP = 0, 1


@dataclass(frozen=True, slots=True)
class Listener:
    """Where to listen, and the limits of a connection.

    Attributes:
        address: "host:port"; port 0 takes a free one. "unix:PATH" for a unix-domain socket, its
            path written as in a URL.
        max_message_bytes: The longest message, in either direction.
        max_in_flight: The most calls that run at a time.
        max_open: The most calls that are let in at a time, those that wait for something included.
        certificates: What to serve TLS with; None for no TLS.
        shared: Whether processes of the same user may listen there too.
        max_connections: The most connections; more are closed at once.
        connection_seconds: How long a connection takes calls, give or take a tenth.
        grace_seconds: How long its calls may then take to end.
        idle_seconds: How long it may have no call, by core's clock: up to twice as long.
        compress: Whether to compress answers, as gzip, for callers that say they take that.
    """

    address: str
    max_message_bytes: int
    max_in_flight: int
    max_open: int
    certificates: CertificateFiles | None
    shared: bool = False
    max_connections: int = 1_000
    connection_seconds: float = 300.0
    grace_seconds: float = 30.0
    idle_seconds: float = 60.0
    compress: bool = False

    @property
    def calls_of_connection(self) -> int:
        """The most calls on one connection."""
        return max(CALLS_OF_CONNECTION, self.max_in_flight)

    def bind(self, add_port: Callable[[str], int]) -> int:
        """Has gRPC core listen; returns the port.

        Args:
            add_port: Core's function of the address, which returns 0 or raises RuntimeError where
                it cannot.

        Raises:
            OSError: The address cannot be bound.
        """
        claim: AbstractContextManager[None] = nullcontext()
        if self.address.startswith(SOCKET):
            claim = claimed(Path(unquote(self.address.removeprefix(SOCKET))))
        with claim:
            try:
                port = add_port(self.address)
            except RuntimeError:
                port = 0
        if not port:
            raise self._refusal()
        return port

    def _refusal(self) -> OSError:
        if not self.address.startswith(SOCKET):
            try:
                try_to_bind(self.address)
            except OSError as error:
                return refused(self.address, error)
        return OSError(f"cannot listen on {self.address}: gRPC core says why in a line of its own")

    def channel_arguments(self) -> list[tuple[str, int]]:
        """Returns the limits by gRPC core's names."""
        return [
            # With it a second server on the same port would silently take half the calls, but for
            # what `workers.port` does.
            ("grpc.so_reuseport", int(self.shared)),
            ("grpc.max_receive_message_length", self.max_message_bytes),
            ("grpc.max_send_message_length", self.max_message_bytes),
            ("grpc.max_concurrent_streams", self.calls_of_connection),
            # Beyond these core ends calls at random, those of callers who send few among them.
            ("grpc.server.max_pending_requests", _PENDING_CALLS),
            ("grpc.server.max_pending_requests_hard_limit", 2 * _PENDING_CALLS),
            ("grpc.max_allowed_incoming_connections", self.max_connections),
            # New servers behind a load balancer get their share, and stalled calls come to an end.
            ("grpc.max_connection_age_ms", _milliseconds(self.connection_seconds)),
            ("grpc.max_connection_age_grace_ms", _milliseconds(self.grace_seconds)),
            ("grpc.max_connection_idle_ms", _milliseconds(self.idle_seconds)),
            # Dead peers are found within 80 s.
            ("grpc.keepalive_time_ms", 60_000),
            ("grpc.keepalive_timeout_ms", 20_000),
            ("grpc.http2.min_ping_interval_without_data_ms", _milliseconds(PING_SECONDS)),
            ("grpc.keepalive_permit_without_calls", 1),
            ("grpc.max_metadata_size", _METADATA_BYTES),
            ("grpc.absolute_max_metadata_size", _METADATA_BYTES),
            # A level, which has core look at what the caller takes; an algorithm would be used for
            # every caller. Core's lowest level is gzip where there is a choice.
            ("grpc.default_compression_level", _GZIP if self.compress else _NONE),
            ("grpc.server_handshake_timeout_ms", _milliseconds(HANDSHAKE_SECONDS)),
        ]


def _milliseconds(seconds: float) -> int:
    return round(seconds * 1000)
