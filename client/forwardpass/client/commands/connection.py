"""What the options that every command has say."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from forwardpass.client import Client
    from forwardpass.client.models import Version


@dataclass(frozen=True, slots=True)
class Connection:
    """Which server to call, and how.

    Attributes:
        server: host:port, or unix:/path.
        timeout: Seconds a call may take.
        tls_ca: A PEM file of root certificates; None sends in the clear.
        token: The bearer token, if any.
    """

    server: str
    timeout: float
    tls_ca: Path | None
    token: str | None

    def open(self) -> "Client":
        """Returns a client; to be closed."""
        from forwardpass.client import Client, Tls

        try:
            return Client(
                self.server,
                timeout=self.timeout,
                tls=Tls(self.tls_ca) if self.tls_ca else None,
                token=self.token,
            )
        except ValueError as error:
            raise typer.BadParameter(str(error)) from None


def split_model(text: str) -> tuple[str, "Version"]:
    """Splits MODEL, MODEL:3 and MODEL:stable into name and version."""
    name, colon, version = text.partition(":")
    if not name or (colon and not version):
        raise typer.BadParameter(
            f"{text!r}: expected MODEL, MODEL:VERSION or MODEL:LABEL", param_hint="MODEL"
        )
    if not colon:
        return name, None
    return name, int(version) if version.isascii() and version.isdigit() else version
