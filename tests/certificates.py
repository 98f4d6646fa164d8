"""Authorities and certificates, made for a test."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path
from tempfile import mkdtemp
from typing import TypeAlias

import grpc
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
)
from cryptography.x509.oid import NameOID

Key: TypeAlias = (
    ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey | dsa.DSAPrivateKey
)
_SIGNS_CERTIFICATES = x509.KeyUsage(
    digital_signature=False,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    key_cert_sign=True,
    crl_sign=True,
    encipher_only=False,
    decipher_only=False,
)


@dataclass(frozen=True)
class Pair:
    """A certificate and its key, as PEM."""

    certificate: bytes
    key: bytes

    @property
    def serial(self) -> int:
        return self.parsed.serial_number

    @property
    def expires(self) -> float:
        """When it ends, in seconds since 1970."""
        return self.parsed.not_valid_after_utc.timestamp()

    @property
    def parsed(self) -> x509.Certificate:
        return x509.load_pem_x509_certificate(self.certificate)

    def write(self, folder: Path, name: str = "server") -> tuple[Path, Path]:
        """Puts certificate and key into a folder, in place of those before; returns their paths."""
        files = folder / f"{name}.pem", folder / f"{name}.key"
        for path, content in zip(files, (self.certificate, self.key), strict=True):
            new = path.with_suffix(".new")
            new.write_bytes(content)
            new.replace(path)
        return files

    def mount(self, folder: Path) -> tuple[Path, Path]:
        """Does so as the kubelet with a Secret: each file is a link by ..data, which is swapped."""
        home = Path(mkdtemp(prefix="..", dir=folder))
        files = self.write(home)
        link = folder / "..data_tmp"
        link.symlink_to(home.name)
        link.rename(folder / "..data")
        certificate, key = (folder / path.name for path in files)
        for path in (certificate, key):
            if not path.is_symlink():
                path.symlink_to(f"..data/{path.name}")
        return certificate, key


class Authority:
    """An authority.

    Attributes:
        certificate: Its own certificate, as PEM.
    """

    def __init__(self, name: str = "test authority") -> None:
        self._name = _name(name)
        self._key = ec.generate_private_key(ec.SECP256R1())
        built = self._builder(self._name, self._key, days=2)
        built = built.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        built = built.add_extension(_SIGNS_CERTIFICATES, critical=True)
        self.certificate = built.sign(self._key, SHA256()).public_bytes(Encoding.PEM)

    def issue(self, name: str = "server", *, days: int = 2, key: Key | None = None) -> Pair:
        """Returns a certificate for localhost, which ends in so many days."""
        key = ec.generate_private_key(ec.SECP256R1()) if key is None else key
        names = [x509.DNSName("localhost"), x509.IPAddress(IPv4Address("127.0.0.1"))]
        built = self._builder(_name(name), key, days).add_extension(
            x509.SubjectAlternativeName(names), critical=False
        )
        certificate = built.sign(self._key, SHA256()).public_bytes(Encoding.PEM)
        return Pair(certificate, pem_of(key))

    def trusted(self, shown: Pair | None = None) -> grpc.ChannelCredentials:
        """Returns what a caller takes that trusts this authority, and shows a certificate."""
        if shown is None:
            return grpc.ssl_channel_credentials(self.certificate)
        return grpc.ssl_channel_credentials(self.certificate, shown.key, shown.certificate)

    def _builder(self, subject: x509.Name, key: Key, days: int) -> x509.CertificateBuilder:
        now = datetime.now(UTC)
        public = key.public_key()
        authority = self._key.public_key()
        return (
            x509.CertificateBuilder()
            .issuer_name(self._name)
            .subject_name(subject)
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=7))
            .not_valid_after(now + timedelta(days=days))
            # From 3.13 on Python takes no certificate that does not say by which key it was signed.
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(authority), critical=False
            )
        )


def pem_of(key: Key, password: bytes | None = None) -> bytes:
    """Returns a key as PEM, locked where there is a password."""
    lock: KeySerializationEncryption = NoEncryption()
    if password is not None:
        lock = BestAvailableEncryption(password)
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, lock)


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])
