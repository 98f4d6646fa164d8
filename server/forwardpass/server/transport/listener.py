"""Where a transport listens, and the limits of a connection."""

from dataclasses import dataclass

from forwardpass.server.security.tls import Certificates


@dataclass(frozen=True, slots=True)
class Listener:
    """Where to listen, and the limits of a connection.

    Attributes:
        address: "host:port"; port 0 takes a free one. "unix:PATH" for a socket.
        max_message_bytes: The longest message, in either direction.
        max_in_flight: The most calls that run at a time.
        certificates: What to serve TLS with; None for no TLS.
        shared: Whether processes of the same user may listen there too.
    """

    address: str
    max_message_bytes: int
    max_in_flight: int
    certificates: Certificates | None
    shared: bool = False

    def channel_arguments(self) -> list[tuple[str, int]]:
        """Returns the limits by gRPC core's names."""
        return [
            # With it a second server on the same port would silently take half the calls, but for
            # what `workers.port` does.
            ("grpc.so_reuseport", int(self.shared)),
            ("grpc.max_receive_message_length", self.max_message_bytes),
            ("grpc.max_send_message_length", self.max_message_bytes),
            ("grpc.max_concurrent_streams", 1024),
            # New servers behind a load balancer get their share, and stalled calls come to an end.
            ("grpc.max_connection_age_ms", 300_000),
            ("grpc.max_connection_age_grace_ms", 30_000),
            ("grpc.max_connection_idle_ms", 300_000),
            # Dead peers are found within 80 s, and clients may ping every 30 s.
            ("grpc.keepalive_time_ms", 60_000),
            ("grpc.keepalive_timeout_ms", 20_000),
            ("grpc.http2.min_ping_interval_without_data_ms", 30_000),
            ("grpc.keepalive_permit_without_calls", 1),
            ("grpc.max_metadata_size", 8_192),
            ("grpc.absolute_max_metadata_size", 16_384),
            ("grpc.server_handshake_timeout_ms", 10_000),
        ]
