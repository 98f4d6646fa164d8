"""TLS over a real connection, with certificates made for the test."""

import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
from conftest import StartServer
from tiny_models import Publisher, classifier

from forwardpass.server.app import Server
from forwardpass.server.settings import Settings
from forwardpass.server.transport.tls import TlsError, read_certificates
from forwardpass.v1.model_service_pb2 import ListModelsRequest
from forwardpass.v1.model_service_pb2_grpc import ModelServiceStub


@dataclass(frozen=True)
class Authority:
    """An authority, and certificates of its making."""

    folder: Path

    def __post_init__(self) -> None:
        self._openssl(
            *("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=test authority"),
            *("-keyout", "ca.key", "-out", "ca.pem", "-days", "2"),
        )

    def issue(self, name: str) -> tuple[Path, Path]:
        """Returns the files of a certificate for localhost, and of its key."""
        self._openssl(
            *("req", "-newkey", "rsa:2048", "-nodes", "-subj", f"/CN={name}"),
            *("-keyout", f"{name}.key", "-out", f"{name}.csr"),
            *("-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"),
        )
        self._openssl(
            *("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key"),
            *("-CAcreateserial", "-copy_extensions", "copy", "-days", "2", "-out", f"{name}.pem"),
        )
        return self.folder / f"{name}.pem", self.folder / f"{name}.key"

    def _openssl(self, *arguments: str) -> None:
        subprocess.run(
            ["openssl", *arguments], cwd=self.folder, check=True, capture_output=True, timeout=60
        )


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    folder = tmp_path / "authority"
    folder.mkdir()
    return Authority(folder)


def models(address: str, credentials: grpc.ChannelCredentials) -> list[str]:
    with grpc.secure_channel(address, credentials) as channel:
        answer = ModelServiceStub(channel).ListModels(ListModelsRequest(), timeout=30)
    return [model.model.name for model in answer.models]


def test_callers_that_trust_the_authority_are_served(
    repository: Publisher, start_server: StartServer, authority: Authority
) -> None:
    repository("clf", classifier())
    certificate, key = authority.issue("server")
    running = start_server(tls_certificate=certificate, tls_key=key)
    trusting = grpc.ssl_channel_credentials((authority.folder / "ca.pem").read_bytes())
    assert models(running.address, trusting) == ["clf"]
    with pytest.raises(grpc.RpcError) as caught:
        models(running.address, grpc.ssl_channel_credentials())
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    with pytest.raises(grpc.RpcError) as caught:
        running.models.ListModels(ListModelsRequest(), timeout=30)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


def test_callers_without_the_certificate_asked_for_are_turned_away(
    repository: Publisher, start_server: StartServer, authority: Authority
) -> None:
    repository("clf", classifier())
    certificate, key = authority.issue("server")
    ca = authority.folder / "ca.pem"
    running = start_server(tls_certificate=certificate, tls_key=key, tls_client_ca=ca)
    with pytest.raises(grpc.RpcError) as caught:
        models(running.address, grpc.ssl_channel_credentials(ca.read_bytes()))
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    own, own_key = authority.issue("client")
    known = grpc.ssl_channel_credentials(ca.read_bytes(), own_key.read_bytes(), own.read_bytes())
    assert models(running.address, known) == ["clf"]


def test_half_of_a_pair_and_a_missing_file_are_told(tmp_path: Path) -> None:
    assert read_certificates(None, None, None) is None
    with pytest.raises(TlsError, match="takes both"):
        read_certificates(tmp_path / "c.pem", None, None)
    with pytest.raises(TlsError, match=r"cannot read .*c\.pem|cannot read .*k\.pem"):
        read_certificates(tmp_path / "c.pem", tmp_path / "k.pem", None)


def test_t138_a_file_that_cannot_be_used_is_named_with_its_setting(
    repository: Publisher, authority: Authority, tmp_path: Path, transport: str
) -> None:
    certificate, key = authority.issue("server")
    _, other = authority.issue("other")
    text, nowhere, locked = (tmp_path / name for name in ("text.pem", "no.pem", "locked.key"))
    text.write_text("no PEM\n")
    torn = tmp_path / "torn.pem"
    torn.write_bytes(certificate.read_bytes().replace(b"M", b"!"))
    authority._openssl(
        *("rsa", "-in", str(key), "-out", str(locked), "-aes256", "-passout", "pass:secret")
    )
    given = {"tls_certificate": certificate, "tls_key": key}
    cases: list[tuple[dict[str, Any], str]] = [
        ({"tls_certificate": text}, f"'tls_certificate': {text} is no PEM file of certificates"),
        ({"tls_certificate": key}, f"'tls_certificate': {key} is no PEM file of certificates"),
        ({"tls_certificate": torn}, f"'tls_certificate': {torn} is no PEM file of certificates"),
        ({"tls_key": text}, f"'tls_key': {text} is no PEM file of a private key"),
        ({"tls_key": certificate}, f"'tls_key': {certificate} is no PEM file of a private key"),
        ({"tls_key": locked}, f"'tls_key': {locked} is no PEM file of a private key without a"),
        ({"tls_key": other}, f"'tls_key': {other} is not the key of {certificate}"),
        ({"tls_client_ca": text}, f"'tls_client_ca': {text} is no PEM file of certificates"),
        ({"tls_client_ca": nowhere}, f"'tls_client_ca': cannot read {nowhere}: No such file"),
        ({"tls_key": tmp_path}, f"'tls_key': cannot read {tmp_path}: Is a directory"),
        ({"tls_certificate": nowhere}, f"'tls_certificate': cannot read {nowhere}: No such file"),
    ]
    for changed, message in cases:
        with pytest.raises(TlsError) as caught:
            Server(Settings(models=repository.root, transport=transport, **(given | changed)))
        assert message in str(caught.value)
