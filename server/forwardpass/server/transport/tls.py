"""Certificates, read as PEM; the transport makes credentials of them."""

import ssl
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

    gRPC core takes what it cannot use, and then tells no more than that it cannot listen.

    Raises:
        TlsError: A file is missing, cannot be read or is no PEM, the key is another certificate's,
            or only some of them are named.
    """
    if chain is None and key is None and client_authority is None:
        return None
    if chain is None or key is None:
        raise TlsError(
            "TLS takes both a certificate and its key: give --tls-certificate, --tls-key"
        )
    read = Certificates(
        _read("tls_key", key),
        _read("tls_certificate", chain),
        None if client_authority is None else _read("tls_client_ca", client_authority),
    )
    _check_certificates("tls_certificate", chain)
    _check_key(chain, key)
    if client_authority is not None:
        _check_certificates("tls_client_ca", client_authority)
    return read


def _read(setting: str, path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise TlsError(f"setting {setting!r}: cannot read {path}: {error.strerror}") from None


def _check_certificates(setting: str, path: Path) -> None:
    try:
        _context().load_verify_locations(path)
    except ssl.SSLError as error:
        raise TlsError(
            f"setting {setting!r}: {path} is no PEM file of certificates: {error.reason}"
        ) from None


def _check_key(chain: Path, key: Path) -> None:
    try:
        # Without a password OpenSSL would ask for one on the terminal.
        _context().load_cert_chain(chain, key, password="")
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise TlsError(f"setting 'tls_key': {key} is not the key of {chain}") from None
        raise TlsError(
            f"setting 'tls_key': {key} is no PEM file of a private key without a password: "
            f"{error.reason}"
        ) from None


def _context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    # Which keys are strong enough is for gRPC core to say.
    context.set_ciphers("DEFAULT:@SECLEVEL=0")
    return context
