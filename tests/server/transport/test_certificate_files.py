"""The files of certificates: which are taken, and what becomes of those that change."""

import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from certificates import Authority, Pair, pem_of
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from structlog.testing import capture_logs

from forwardpass.server.process import watched_files
from forwardpass.server.transport.certificate_files import CertificateFiles, open_certificates
from forwardpass.server.transport.tls import TlsError

AUTHORITY = Authority()
FIRST, SECOND, THIRD = (AUTHORITY.issue(days=days) for days in (1, 2, 3))


@pytest.fixture
def always_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Has the files looked at whenever certificates are asked for."""
    monkeypatch.setattr(watched_files, "_LOOK_SECONDS", 0.0)


def opened(folder: Path) -> CertificateFiles:
    return CertificateFiles(folder / "server.pem", folder / "server.key", None)


def holds(files: CertificateFiles, pair: Pair) -> bool:
    current = files.current()
    return (current.chain, current.key) == (pair.certificate, pair.key)


def write_in_place(pair: Pair, folder: Path) -> None:
    (folder / "server.pem").write_bytes(pair.certificate)
    (folder / "server.key").write_bytes(pair.key)


def test_half_of_a_pair_is_told_and_none_means_no_tls(tmp_path: Path) -> None:
    assert open_certificates(None, None, None) is None
    with pytest.raises(TlsError, match="takes both"):
        open_certificates(tmp_path / "c.pem", None, None)
    with pytest.raises(TlsError, match="takes both"):
        open_certificates(None, None, tmp_path / "ca.pem")
    with pytest.raises(TlsError, match=r"setting 'tls_certificate': cannot read .*c\.pem"):
        open_certificates(tmp_path / "c.pem", tmp_path / "k.pem", None)


def test_what_is_read_is_told_of_the_first_of_the_chain(tmp_path: Path) -> None:
    chain = Pair(SECOND.certificate + AUTHORITY.certificate, SECOND.key)
    current = CertificateFiles(*chain.write(tmp_path), None).current()
    assert (int(current.serial, 16), current.expires.timestamp()) == (SECOND.serial, SECOND.expires)
    assert current.client_authority is None
    assert SECOND.key.decode() not in repr(current)


@pytest.mark.parametrize(
    "key",
    [
        rsa.generate_private_key(65_537, 2048),
        ed25519.Ed25519PrivateKey.generate(),
        ec.generate_private_key(ec.SECP384R1()),
        ec.generate_private_key(ec.SECP521R1()),
    ],
)
def test_every_kind_of_key_that_grpc_takes_is_taken(
    tmp_path: Path, key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey
) -> None:
    pair = AUTHORITY.issue(key=key)
    assert holds(CertificateFiles(*pair.write(tmp_path), None), pair)


def test_a_key_that_openssl_has_written_with_its_curve_is_taken(tmp_path: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    plain = key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())
    curve = b"-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n"
    pair = Pair(AUTHORITY.issue(key=key).certificate, curve + plain)
    assert holds(CertificateFiles(*pair.write(tmp_path), None), pair)


def test_text_around_certificates_is_no_fault(tmp_path: Path) -> None:
    pair = Pair("Zertifikat für uns:\n".encode() + FIRST.certificate, FIRST.key)
    assert holds(CertificateFiles(*pair.write(tmp_path), None), pair)


@pytest.mark.usefixtures("always_looks")
def test_a_change_is_seen_whatever_way_it_is_made_and_told_once(tmp_path: Path) -> None:
    FIRST.write(tmp_path)
    files = opened(tmp_path)
    first = files.current()
    assert files.current() is first
    with capture_logs() as lines:
        SECOND.write(tmp_path)
        assert holds(files, SECOND)
        assert files.current() is files.current()
        write_in_place(THIRD, tmp_path)
        assert holds(files, THIRD)
    assert [(line["event"], line["log_level"]) for line in lines] == [("certificates", "info")] * 2
    assert [int(line["serial"], 16) for line in lines] == [SECOND.serial, THIRD.serial]
    assert lines[0]["path"] == str(tmp_path / "server.pem")
    assert lines[0]["expires"] == SECOND.parsed.not_valid_after_utc.isoformat()


@pytest.mark.usefixtures("always_looks")
def test_a_mounted_secret_is_followed_from_folder_to_folder(tmp_path: Path) -> None:
    FIRST.mount(tmp_path)
    files = opened(tmp_path)
    for pair in (SECOND, THIRD, FIRST):
        pair.mount(tmp_path)
        assert holds(files, pair)


@pytest.mark.usefixtures("always_looks")
def test_the_same_certificates_in_new_files_are_no_news(tmp_path: Path) -> None:
    FIRST.write(tmp_path)
    files = opened(tmp_path)
    first = files.current()
    with capture_logs() as lines:
        FIRST.write(tmp_path)
        assert files.current() is first
    assert lines == []


@pytest.mark.usefixtures("always_looks")
def test_a_secret_that_is_swapped_while_it_is_read_is_no_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The certificate is of the one folder, and the key of the next."""
    FIRST.mount(tmp_path)
    files = opened(tmp_path)
    first = files.current()
    SECOND.mount(tmp_path)
    real = os.open

    def swap_before_the_key(path: Path, *flags: int) -> int:
        if path.suffix == ".key":
            monkeypatch.setattr(os, "open", real)
            THIRD.mount(tmp_path)
        return real(path, *flags)

    monkeypatch.setattr(os, "open", swap_before_the_key)
    with capture_logs() as lines:
        assert files.current() is first
        assert os.open is real
        assert not files.failing
        assert holds(files, THIRD)
    assert [line["event"] for line in lines] == ["certificates"]


def missing(folder: Path) -> None:
    (folder / "server.key").unlink()


def pipe(folder: Path) -> None:
    missing(folder)
    os.mkfifo(folder / "server.key")


def endless(folder: Path) -> None:
    missing(folder)
    (folder / "server.key").symlink_to("/dev/zero")


def long(folder: Path) -> None:
    (folder / "server.pem").write_bytes(b"\n" * (1 << 20) + SECOND.certificate)


def certificate(content: bytes) -> Callable[[Path], object]:
    return lambda folder: (folder / "server.pem").write_bytes(content)


def key(content: bytes) -> Callable[[Path], object]:
    return lambda folder: (folder / "server.key").write_bytes(content)


def made_for(other: Pair) -> Callable[[Path], object]:
    return other.write


NO_CERTIFICATES = r"'tls_certificate': .*server\.pem is no PEM file of certificates"
NO_KEY = r"'tls_key': .*server\.key is no PEM file of a private key without a password"
OTHER_KEY = r"'tls_key': .*server\.key is not the key of .*server\.pem"
OTHER_KIND = r"'tls_certificate': .*server\.pem is for a kind of key that gRPC does not take"
UNUSABLE = {
    "missing": (missing, r"'tls_key': cannot read .*server\.key: No such file"),
    "pipe": (pipe, r"'tls_key': .*server\.key is not a plain file"),
    "endless": (endless, r"'tls_key': .*server\.key is not a plain file"),
    "long": (long, r"'tls_certificate': .*server\.pem has more than 1048576 bytes"),
    "empty certificate": (certificate(b""), NO_CERTIFICATES),
    "text": (certificate(b"no PEM\n"), NO_CERTIFICATES),
    "a key": (certificate(FIRST.key), NO_CERTIFICATES),
    "torn": (certificate(FIRST.certificate[:200]), NO_CERTIFICATES),
    "torn chain": (certificate(FIRST.certificate + SECOND.certificate[:200]), NO_CERTIFICATES),
    "empty key": (key(b""), NO_KEY),
    "locked key": (key(pem_of(ec.generate_private_key(ec.SECP256R1()), b"secret")), NO_KEY),
    "torn key": (key(FIRST.key[:100]), NO_KEY),
    "new certificate": (certificate(SECOND.certificate), OTHER_KEY),
    "new key": (key(SECOND.key), OTHER_KEY),
    "another curve": (
        made_for(AUTHORITY.issue(key=ec.generate_private_key(ec.SECP256K1()))),
        OTHER_KIND,
    ),
    "DSA": (
        made_for(AUTHORITY.issue(key=dsa.generate_private_key(1024))),
        OTHER_KIND,
    ),
}


@pytest.mark.usefixtures("always_looks")
@pytest.mark.parametrize(("spoil", "reason"), UNUSABLE.values(), ids=UNUSABLE.keys())
def test_files_that_become_unusable_leave_the_certificates_and_are_told_once(
    tmp_path: Path, spoil: Callable[[Path], object], reason: str
) -> None:
    FIRST.write(tmp_path)
    files = opened(tmp_path)
    first = files.current()
    descriptors = len(list(Path("/proc/self/fd").iterdir()))
    spoil(tmp_path)
    with pytest.raises(TlsError, match=reason):
        opened(tmp_path)
    assert not files.failing
    with capture_logs() as lines:
        assert all(files.current() is first for _ in range(3))
    (line,) = lines
    assert (line["event"], line["log_level"]) == ("certificates_kept", "warning")
    assert int(line["serial"], 16) == FIRST.serial
    with pytest.raises(TlsError, match=reason):
        raise TlsError(line["reason"])
    assert files.failing
    assert len(list(Path("/proc/self/fd").iterdir())) == descriptors
    # A good pair is taken, and a fault is news again then.
    SECOND.write(tmp_path)
    with capture_logs() as lines:
        assert holds(files, SECOND)
        assert not files.failing
        missing(tmp_path)
        assert all(holds(files, SECOND) for _ in range(3))
    assert [line["event"] for line in lines] == ["certificates", "certificates_kept"]


@pytest.mark.usefixtures("always_looks")
def test_the_old_pair_put_back_ends_the_fault(tmp_path: Path) -> None:
    FIRST.write(tmp_path)
    files = opened(tmp_path)
    (tmp_path / "server.key").write_bytes(SECOND.key)
    with capture_logs() as lines:
        first = files.current()
        assert files.failing
        (tmp_path / "server.key").write_bytes(FIRST.key)
        assert files.current() is first
        assert not files.failing
    assert [line["event"] for line in lines] == ["certificates_kept", "certificates"]


@pytest.mark.usefixtures("always_looks")
def test_authorities_are_read_again_too(tmp_path: Path) -> None:
    bundle = tmp_path / "callers.pem"
    bundle.write_bytes(AUTHORITY.certificate)
    files = CertificateFiles(*FIRST.write(tmp_path), bundle)
    both = AUTHORITY.certificate + Authority("other").certificate
    bundle.write_bytes(both)
    assert files.current().client_authority == both
    bundle.write_bytes(b"")
    with capture_logs() as lines:
        assert files.current().client_authority == both
    assert f"'tls_client_ca': {bundle} is no PEM file of certificates" in lines[0]["reason"]


def test_the_files_are_not_looked_at_for_each_connection(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    FIRST.write(tmp_path)
    monkeypatch.setattr(watched_files, "_LOOK_SECONDS", 600.0)
    files = opened(tmp_path)
    SECOND.write(tmp_path)
    assert holds(files, FIRST)
    monkeypatch.setattr(watched_files, "_LOOK_SECONDS", 0.0)
    assert holds(files, SECOND)


def test_a_change_is_seen_within_a_second_or_so(tmp_path: Path) -> None:
    FIRST.write(tmp_path)
    files = opened(tmp_path)
    SECOND.write(tmp_path)
    for _ in range(400):
        if holds(files, SECOND):
            return
        threading.Event().wait(0.01)
    raise AssertionError("not within four seconds")


@pytest.mark.usefixtures("always_looks")
def test_nobody_waits_for_another_who_looks(tmp_path: Path) -> None:
    FIRST.write(tmp_path)
    files = opened(tmp_path)
    SECOND.write(tmp_path)
    with files._looking:
        assert holds(files, FIRST)
    assert holds(files, SECOND)
