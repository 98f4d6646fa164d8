"""The connection: how it is secured, balanced and kept alive."""

import json
import re
import ssl
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import grpc

from forwardpass.client.errors import InvalidSetting

# No retry policy: which calls are made again, `retries` decides.
SERVICE_CONFIG: dict[str, list[dict[str, dict[str, str]]]] = {
    "loadBalancingConfig": [{"round_robin": {}}]
}

_PORT = re.compile(r":([0-9]+)$")
# Room for what gRPC adds to a message.
_FRAMING = 1 << 16


@dataclass(frozen=True, slots=True)
class Tls:
    """How to be sure of the server, and the server of us. All files are PEM.

    Attributes:
        ca: Root certificates to trust; None trusts those that come with grpcio.
        certificate: Our own certificate chain, where the server asks for one; needs `key`.
        key: The private key of `certificate`.
    """

    ca: Path | str | None = None
    certificate: Path | str | None = None
    key: Path | str | None = None

    def __post_init__(self) -> None:
        if (self.certificate is None) != (self.key is None):
            raise InvalidSetting(
                "a client certificate and its key are given together or not at all"
            )

    def credentials(self) -> grpc.ChannelCredentials:
        """Reads the files.

        Raises:
            OSError: A file cannot be read.
            InvalidSetting: A file holds no certificate or key, or the key is another certificate's:
                gRPC itself would only find no connection.
        """
        ca, certificate, key = (
            None if path is None else Path(path).read_bytes()
            for path in (self.ca, self.certificate, self.key)
        )
        self._check()
        return grpc.ssl_channel_credentials(ca, key, certificate)

    def _check(self) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        if self.ca is not None:
            try:
                context.load_verify_locations(self.ca)
            except ssl.SSLError:
                raise InvalidSetting(f"{self.ca} holds no PEM certificate to trust") from None
        if self.certificate is None or self.key is None:
            return
        try:
            # Without a password; asked for one, the command would wait for it.
            context.load_cert_chain(self.certificate, self.key, password="")
        except ssl.SSLError as error:
            is_mismatch = error.reason == "KEY_VALUES_MISMATCH"
            raise InvalidSetting(
                f"the key {self.key} is not that of the certificate {self.certificate}"
                if is_mismatch
                else f"{self.certificate} and {self.key} are no PEM certificate with its key, or "
                "the key is encrypted, which gRPC does not take"
            ) from None


def check_target(target: str) -> str:
    """Returns an address as it is.

    Raises:
        InvalidSetting: Its port is none; gRPC would dial what is left of it in 16 bits.
    """
    port = _PORT.search(target)
    if port is not None and not target.startswith("unix:") and not 0 < int(port[1]) < 1 << 16:
        raise InvalidSetting(f"{target!r} has the port {port[1]}; ports are from 1 to 65535")
    return target


def open_channel(
    target: str, credentials: grpc.ChannelCredentials | None, max_message_bytes: int
) -> grpc.Channel:
    """Opens a channel, which connects at the first call; in the clear without credentials."""
    options: list[tuple[str, str | int]] = [
        ("grpc.service_config", json.dumps(SERVICE_CONFIG)),
        # The client itself refuses what is too long to send.
        ("grpc.max_send_message_length", -1),
        ("grpc.max_receive_message_length", max_message_bytes),
        # What has been sent is kept up to this size in all, for a server that closes the connection
        # before it has begun to read: by default 256 KiB, so that no batch of images would be sent
        # again.
        ("grpc.per_rpc_retry_buffer_size", max_message_bytes + _FRAMING),
        ("grpc.primary_user_agent", f"forwardpass/{version('forwardpass')}"),
        # Finds connections that died in silence, such as those that a NAT forgot, before a call
        # has to.
        ("grpc.keepalive_time_ms", 60_000),
        ("grpc.keepalive_timeout_ms", 20_000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
    ]
    if credentials is None:
        return grpc.insecure_channel(target, options)
    return grpc.secure_channel(target, credentials, options)
