"""Certificates, read as PEM; the transport makes credentials of them."""

from dataclasses import dataclass
from pathlib import Path


class TlsError(ValueError):
    """Certificates that cannot be used; the message says why."""


@dataclass(frozen=True, slots=True)
class Certificates:
    """PEM: our private key and certificate chain, and the authority of callers' certificates."""

    key: bytes
    chain: bytes
    client_authority: bytes | None


def read_certificates(
    chain: Path | None, key: Path | None, client_authority: Path | None
) -> Certificates | None:
    """Returns the certificates; None where no file is named, which means no TLS.

    Raises:
        TlsError: A file is missing or cannot be read, or only some of them are named.
    """
    if chain is None and key is None and client_authority is None:
        return None
    if chain is None or key is None:
        raise TlsError(
            "TLS takes both a certificate and its key: give --tls-certificate, --tls-key"
        )
    try:
        return Certificates(
            key.read_bytes(),
            chain.read_bytes(),
            None if client_authority is None else client_authority.read_bytes(),
        )
    except OSError as error:
        raise TlsError(f"cannot read {error.filename}: {error.strerror}") from None
