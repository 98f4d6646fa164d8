"""A server's certificate with its key, and the authorities of its callers: PEM that is checked."""

import os
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from forwardpass.server.process.plain_file import Stamp, UnusableFileError, read_plain_file

if TYPE_CHECKING:
    from cryptography.x509 import Certificate

# A bundle of all public authorities has a quarter of it.
_MAX_BYTES = 1 << 20
# The curves of keys that gRPC's TLS takes.
_CURVES = {"secp256r1", "secp384r1", "secp521r1"}


class TlsError(UnusableFileError):
    """Certificates that cannot be used; the message says why."""


@dataclass(frozen=True, slots=True)
class PemFile:
    """A file, as it was when it was read.

    Attributes:
        setting: The setting that names it.
        path: Where it lies.
        stamp: Another one after each change of the file.
        content: What is in it.
    """

    setting: str
    path: Path
    stamp: Stamp
    content: bytes = field(repr=False)

    def refusal(self, reason: str) -> TlsError:
        """Returns the error that says why the file cannot be used."""
        return TlsError(f"setting {self.setting!r}: {self.path} {reason}")


@dataclass(frozen=True, slots=True)
class Certificates:
    """What a server shows to callers, and what it wants to see of theirs.

    Attributes:
        key: Its private key, as PEM.
        chain: Its certificate, followed by those of the authorities between, as PEM.
        client_authority: The authorities that callers' certificates may be of, as PEM; None where
            callers need none.
        serial: The serial number of its certificate, in hexadecimal digits.
        expires: When its certificate ends, which is the first of the chain.
        context: Speaks TLS with the certificate where gRPC does not, and asks callers for none.
    """

    key: bytes = field(repr=False)
    chain: bytes
    client_authority: bytes | None
    serial: str
    expires: datetime
    context: ssl.SSLContext = field(compare=False)


def read_pem(setting: str, path: Path) -> PemFile:
    """Returns what is in a file.

    Args:
        setting: The setting that names it.
        path: The file, or a link to it.

    Raises:
        TlsError: It is not there, or cannot be read.
    """
    try:
        return PemFile(setting, path, *read_plain_file(path, _MAX_BYTES))
    except UnusableFileError as error:
        raise TlsError(f"setting {setting!r}: {error}") from None


def check_certificates(
    chain: PemFile, key: PemFile, client_authority: PemFile | None
) -> Certificates:
    """Returns the certificates that the files hold.

    gRPC core takes what it cannot use. It then tells no more than that it cannot listen, or goes on
    with what it had and tells nothing.

    Raises:
        TlsError: A file is no PEM, gRPC cannot use the certificate, or the key is another one's.
    """
    certificate = _first_certificate(chain)
    _check_kind_of_key(chain, certificate)
    if client_authority is not None:
        _first_certificate(client_authority)
    return Certificates(
        key.content,
        chain.content,
        None if client_authority is None else client_authority.content,
        f"{certificate.serial_number:x}",
        certificate.not_valid_after_utc,
        _context(chain, key),
    )


def _first_certificate(file: PemFile) -> "Certificate":
    """Returns the first certificate of a file in which all can be read."""
    # It takes 6 MiB and 30 ms, and most servers have no TLS.
    from cryptography.x509 import InvalidVersion, load_pem_x509_certificates

    with _at_a_path(file) as path:
        try:
            # It does not overlook one that is cut off, behind others.
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_verify_locations(path)
            return load_pem_x509_certificates(file.content)[0]
        except (ssl.SSLError, ValueError, InvalidVersion):
            raise file.refusal("is no PEM file of certificates") from None


def _check_kind_of_key(chain: PemFile, certificate: "Certificate") -> None:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

    try:
        key = certificate.public_key()
    except (ValueError, UnsupportedAlgorithm):
        key = None
    if isinstance(key, RSAPublicKey | Ed25519PublicKey):
        return
    if not isinstance(key, EllipticCurvePublicKey) or key.curve.name not in _CURVES:
        raise chain.refusal(
            "is for a kind of key that gRPC does not take: make one of RSA, of Ed25519, or of "
            "ECDSA with P-256, P-384 or P-521"
        )


def _context(chain: PemFile, key: PemFile) -> ssl.SSLContext:
    """Returns what speaks TLS with a certificate, once OpenSSL has tried its key."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    # Those of gRPC core. Which keys are strong enough is for it to say.
    context.set_ciphers("ECDHE+AESGCM:ECDHE+CHACHA20:@SECLEVEL=0")
    with _at_a_path(chain) as chain_path, _at_a_path(key) as key_path:
        try:
            # Without a password OpenSSL would ask for one on the terminal.
            context.load_cert_chain(chain_path, key_path, password="")
        except ssl.SSLError as error:
            if error.reason == "KEY_VALUES_MISMATCH":
                raise key.refusal(f"is not the key of {chain.path}") from None
            raise key.refusal(
                f"is no PEM file of a private key without a password: {error.reason}"
            ) from None
    return context


@contextmanager
def _at_a_path(file: PemFile) -> Iterator[str]:
    """Gives OpenSSL a path to what has been read, the very bytes that gRPC is to have.

    Under the path that they were read from there may be others by now.
    """
    try:
        descriptor = os.memfd_create("pem")
    except OSError as error:
        raise file.refusal(f"cannot be tried: {error.strerror}") from None
    with os.fdopen(descriptor, "wb", buffering=0) as copy:
        copy.write(file.content)
        yield f"/proc/self/fd/{descriptor}"
