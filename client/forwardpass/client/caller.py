"""What `Client` and `AsyncClient` are alike in: their settings."""

from collections.abc import Sequence
from typing import Self

from forwardpass.client.channel import Tls
from forwardpass.client.operations import Operations
from forwardpass.client.settings import (
    DEFAULT_MESSAGE_BYTES,
    DEFAULT_TARGET,
    DEFAULT_TIMEOUT,
    Metadata,
    Settings,
    as_targets,
    to_pairs,
)


class Caller:
    """Has settings, and pickles as these."""

    def __init__(
        self,
        targets: str | Sequence[str] = DEFAULT_TARGET,
        *,
        timeout: float = DEFAULT_TIMEOUT,
        tls: Tls | None = None,
        token: str | None = None,
        metadata: Metadata | None = None,
        connections: int = 1,
        max_message_bytes: int = DEFAULT_MESSAGE_BYTES,
    ) -> None:
        """Prepares to call; the server need not be there yet.

        Args:
            targets: host:port, or any name that gRPC resolves, such as "dns:///models:8001", whose
                addresses are called in turn, or "unix:/run/forwardpass.sock" for a unix-domain
                socket; or several of them, which are called in turn.
            timeout: Seconds that a call may take, retries included, where the call itself does
                not say.
            tls: How to secure the connection; None sends in the clear.
            token: Sent with every call as `authorization: Bearer TOKEN`. Without `tls` anyone on
                the way can read it.
            metadata: Sent with every call: str by name, bytes where the name ends in "-bin".
            connections: Connections to each target, which calls take in turn. A server's workers
                have a share of the connections each.
            max_message_bytes: The largest request to send and answer to take.

        Raises:
            InvalidSetting: `timeout` is not a positive, finite number, `token` not printable ASCII,
                the port of a target none, or a file of `tls` not what it should be.
            OSError: A file of `tls` cannot be read.
        """
        settings = Settings(
            targets=as_targets(targets),
            timeout=timeout,
            tls=tls,
            token=token,
            metadata=to_pairs(metadata),
            connections=connections,
            max_message_bytes=max_message_bytes,
        )
        self._begin(settings)

    @classmethod
    def with_settings(cls, settings: Settings) -> Self:
        """Returns one that has these settings.

        Raises:
            InvalidSetting: A file of `tls` is not what it should be.
            OSError: A file of `tls` cannot be read.
        """
        client = cls.__new__(cls)
        client.__setstate__(settings)
        return client

    def _begin(self, settings: Settings) -> None:
        self._settings = settings
        self._operations = Operations(settings)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._settings.name!r})"

    def __getstate__(self) -> Settings:
        """Pickles the settings, the token among them; what is unpickled connects anew."""
        return self._settings

    def __setstate__(self, settings: Settings) -> None:
        self._begin(settings)

    @property
    def timeout(self) -> float:
        """Seconds that a call may take which says nothing else."""
        return self._settings.timeout
