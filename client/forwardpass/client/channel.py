"""The connection: how it is secured, balanced and kept alive."""

import json
import os
import re
import ssl
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TypeAlias

import grpc

from forwardpass.client.errors import InvalidSetting

# No retry policy: which calls are made again, `retries` decides.
SERVICE_CONFIG: dict[str, list[dict[str, dict[str, str]]]] = {
    "loadBalancingConfig": [{"round_robin": {}}]
}

Options: TypeAlias = list[tuple[str, str | int]]

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
        name: The name that the server's certificate has to have, where it is not that of the
            target.
    """

    ca: Path | str | None = None
    certificate: Path | str | None = None
    key: Path | str | None = None
    name: str | None = None

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

    def stamp(self) -> object:
        """Returns what is another thing once a file was replaced, also by way of a link."""
        stats = [_stat(path) for path in (self.ca, self.certificate, self.key) if path is not None]
        return [stat and (stat.st_ino, stat.st_size, stat.st_mtime_ns) for stat in stats]

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


def _stat(path: Path | str) -> os.stat_result | None:
    try:
        return Path(path).stat()
    except OSError:
        # For a moment, as one file takes the place of another.
        return None


def check_target(target: str) -> str:
    """Returns an address as it is.

    Raises:
        InvalidSetting: Its port is none; gRPC would dial what is left of it in 16 bits.
    """
    port = _PORT.search(target)
    if port is not None and not target.startswith("unix:") and not 0 < int(port[1]) < 1 << 16:
        raise InvalidSetting(f"{target!r} has the port {port[1]}; ports are from 1 to 65535")
    return target


def channel_options(max_message_bytes: int, name: str | None) -> Options:
    """Returns how a channel behaves, by gRPC core's names.

    Args:
        max_message_bytes: The largest answer to take.
        name: The name that the server's certificate has to have; that of the target where None.
    """
    options: Options = [
        ("grpc.service_config", json.dumps(SERVICE_CONFIG)),
        # The client itself refuses what is too long to send.
        ("grpc.max_send_message_length", -1),
        ("grpc.max_receive_message_length", max_message_bytes),
        # What has been sent is kept up to this size in all, for a server that closes the connection
        # before it has begun to read: by default 256 KiB, so that no batch of images would be sent
        # again.
        ("grpc.per_rpc_retry_buffer_size", max_message_bytes + _FRAMING),
        ("grpc.primary_user_agent", f"forwardpass/{version('forwardpass')}"),
        # Channels to the same address would share one connection, and so one of several workers.
        ("grpc.use_local_subchannel_pool", 1),
        # Finds connections that died in silence, such as those that a NAT forgot, before a call
        # has to: within 15 s, or 5 where something was sent. Core waits for the longer of the two
        # timeouts, of which the second is a minute by default.
        ("grpc.keepalive_time_ms", 10_000),
        ("grpc.keepalive_timeout_ms", 5_000),
        ("grpc.http2.ping_timeout_ms", 5_000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
        # Each of our tries dials; by default core waits for a second and more after a failure.
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 2_000),
        # What it may take to connect.
        ("grpc.min_reconnect_backoff_ms", 5_000),
    ]
    if name is not None:
        options.append(("grpc.ssl_target_name_override", name))
    return options
