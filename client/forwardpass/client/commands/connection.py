"""The options that say which server to call, and how: those of every command that calls one."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from forwardpass.client import Client, Tls
    from forwardpass.client.models import Version
    from forwardpass.client.settings import Settings

_SERVER = "127.0.0.1:8001"
_TIMEOUT = 30.0


@dataclass(frozen=True, slots=True)
class Connection:
    """Which servers to call, and how.

    Attributes:
        server: The servers, as `Client` takes them; None where none was named.
        timeout: Seconds a call may take.
        tls_ca: A PEM file of root certificates; None sends in the clear.
        tls_cert: A PEM file of our own certificate.
        tls_key: Its private key.
        tls_name: The name that the server's certificate has to have, where it is another one.
        token: The bearer token, if any.
        header: Metadata to send with each call, as NAME=VALUE.
        connections: Connections to each server.
    """

    server: list[str] | None = None
    timeout: float = _TIMEOUT
    tls_ca: Path | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None
    tls_name: str | None = None
    token: str | None = field(default=None, repr=False)
    header: list[str] | None = field(default=None, repr=False)
    connections: int = 1

    @property
    def is_named(self) -> bool:
        """Whether a server was named."""
        return bool(self.server)

    def settings(self) -> "Settings":
        """Returns the settings of a client.

        Raises:
            typer.BadParameter: They cannot be.
        """
        from forwardpass.client.settings import Settings, to_pairs

        try:
            return Settings(
                targets=tuple(self.server or [_SERVER]),
                timeout=self.timeout,
                tls=self._tls(),
                token=self.token,
                metadata=to_pairs(dict(map(_split_header, self.header or []))),
                connections=self.connections,
            )
        except ValueError as error:
            raise typer.BadParameter(str(error)) from None

    def open(self) -> "Client":
        """Returns a client; to be closed."""
        from forwardpass.client import Client

        settings = self.settings()
        try:
            client: Client = Client.with_settings(settings)
        except ValueError as error:
            raise typer.BadParameter(str(error)) from None
        return client

    def _tls(self) -> "Tls | None":
        from forwardpass.client import Tls

        if self.tls_ca is None:
            if self.tls_cert or self.tls_key or self.tls_name:
                raise typer.BadParameter("--tls-cert, --tls-key and --tls-name go with --tls-ca")
            return None
        return Tls(self.tls_ca, self.tls_cert, self.tls_key, self.tls_name)


def with_connection(
    shown_default: str = _SERVER,
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Gives a command the options of `Connection`, which it gets as its argument `connection`.

    Args:
        shown_default: Which server is called where none is named.
    """

    def give(command: Callable[..., None]) -> Callable[..., None]:
        signature = inspect.signature(command, eval_str=True)
        own = [one for one in signature.parameters.values() if one.name != "connection"]

        @wraps(command)
        def run(**given: Any) -> None:
            options = {name: given.pop(name) for name in _DEFAULTS}
            command(**given, connection=Connection(**options))

        options = inspect.signature(_options(shown_default)).parameters.values()
        run.__signature__ = signature.replace(parameters=[*own, *options])  # type: ignore[attr-defined]
        run.__annotations__ = {one.name: one.annotation for one in (*own, *options)}
        return run

    return give


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


def _split_header(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise typer.BadParameter(f"{text!r}: expected NAME=VALUE", param_hint="--header")
    return name, value


def _options(shown_default: str) -> Callable[..., None]:
    """Returns a function whose parameters are the options, as typer reads them."""

    def option(text: str, metavar: str, **more: Any) -> Any:
        return typer.Option(help=text, metavar=metavar, rich_help_panel="Connection", **more)

    def file(text: str) -> Any:
        return option(text, "FILE", exists=True, dir_okay=False)

    def options(
        *,
        server: Annotated[
            list[str] | None,
            option(
                "The server to call; unix:/PATH for a unix-domain socket. Repeated, several that "
                "are called in turn.",
                "HOST:PORT",
                envvar="FORWARDPASS_SERVER",
                show_default=shown_default,
            ),
        ] = None,
        timeout: Annotated[
            float, option("The longest a call may take, retries included.", "SECONDS", min=0.001)
        ] = _TIMEOUT,
        tls_ca: Annotated[
            Path | None, file("Use TLS, and trust the root certificates in this PEM file.")
        ] = None,
        tls_cert: Annotated[
            Path | None, file("Our own certificate, for a server that asks for one; PEM.")
        ] = None,
        tls_key: Annotated[Path | None, file("The private key of --tls-cert; PEM.")] = None,
        tls_name: Annotated[
            str | None,
            option("The name that the server's certificate has, where it is another one.", "NAME"),
        ] = None,
        token: Annotated[
            str | None,
            option(
                "The bearer token. Others on this machine can see it here, and not in the "
                "variable.",
                "TOKEN",
                envvar="FORWARDPASS_TOKEN",
            ),
        ] = None,
        header: Annotated[
            list[str] | None,
            option("Metadata to send with each call, such as x-request-id=17.", "NAME=VALUE"),
        ] = None,
        connections: Annotated[
            int, option("Connections to each server, called in turn.", "N", min=1, max=64)
        ] = 1,
    ) -> None: ...

    return options


_DEFAULTS = {name: one.default for name, one in inspect.signature(_options("")).parameters.items()}
