"""TLS over real connections, with certificates made for the test, and changed under it."""

import socket
import ssl
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

import grpc
import pytest
from certificates import Authority, Pair, pem_of
from conftest import Running, StartServer
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from prometheus_client.parser import text_string_to_metric_families
from structlog.testing import capture_logs
from tiny_models import Publisher, classifier

from forwardpass.server.app import Server
from forwardpass.server.metrics import http
from forwardpass.server.process import watched_files
from forwardpass.server.settings import Settings
from forwardpass.server.transport.tls import TlsError
from forwardpass.v1.model_service_pb2 import ListModelsRequest
from forwardpass.v1.model_service_pb2_grpc import ModelServiceStub

PATIENCE = 60
SWAPS = 20
FILES = ("tls_certificate", "tls_key")


@pytest.fixture
def authority() -> Authority:
    return Authority()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where the server's certificate lies."""
    folder = tmp_path / "certificates"
    folder.mkdir()
    return folder


@pytest.fixture
def always_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Has the files looked at at each handshake, and not once a second."""
    monkeypatch.setattr(watched_files, "_LOOK_SECONDS", 0.0)


def given(pair: Pair, folder: Path) -> dict[str, Any]:
    """Returns the settings of a server with that certificate."""
    return dict(zip(FILES, pair.write(folder), strict=True))


@contextmanager
def connected(running: Running, credentials: grpc.ChannelCredentials) -> Iterator[ModelServiceStub]:
    options = [("grpc.use_local_subchannel_pool", 1)]
    with grpc.secure_channel(running.address, credentials, options) as channel:
        yield ModelServiceStub(channel)


def names(stub: ModelServiceStub) -> list[str]:
    answer = stub.ListModels(ListModelsRequest(), timeout=PATIENCE)
    return [model.model.name for model in answer.models]


def models(running: Running, credentials: grpc.ChannelCredentials) -> list[str]:
    """Returns what a caller is told over a connection of its own."""
    with connected(running, credentials) as stub:
        return names(stub)


def is_turned_away(running: Running, credentials: grpc.ChannelCredentials) -> bool:
    with pytest.raises(grpc.RpcError) as caught:
        models(running, credentials)
    return caught.value.code() is grpc.StatusCode.UNAVAILABLE


def serial_shown(port: int) -> int:
    """Returns the serial number of the certificate that a new handshake sees."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    with (
        socket.create_connection(("127.0.0.1", port), PATIENCE) as one,
        context.wrap_socket(one) as secured,
    ):
        shown = secured.getpeercert(binary_form=True)
        assert shown is not None
        return x509.load_der_x509_certificate(shown).serial_number


def get(url: str, authority: Authority | None = None) -> str:
    context = None
    if authority is not None:
        context = ssl.create_default_context(cadata=authority.certificate.decode())
    with urlopen(url, timeout=PATIENCE, context=context) as answer:
        text: str = answer.read().decode()
        return text


def certificate_metrics(text: str) -> dict[str, float]:
    prefix = "forwardpass_certificate_"
    return {
        family.name.removeprefix(prefix): family.samples[0].value
        for family in text_string_to_metric_families(text)
        if family.name.startswith(prefix)
    }


def test_callers_that_trust_the_authority_are_served(
    repository: Publisher, start_server: StartServer, authority: Authority, folder: Path
) -> None:
    repository("clf", classifier())
    running = start_server(**given(authority.issue(), folder))
    assert models(running, authority.trusted()) == ["clf"]
    assert is_turned_away(running, grpc.ssl_channel_credentials())
    with pytest.raises(grpc.RpcError) as caught:
        running.models.ListModels(ListModelsRequest(), timeout=PATIENCE)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


def test_t71_callers_without_a_certificate_that_holds_are_turned_away(
    repository: Publisher, start_server: StartServer, authority: Authority, folder: Path
) -> None:
    repository("clf", classifier())
    callers = folder / "callers.pem"
    callers.write_bytes(authority.certificate)
    running = start_server(**given(authority.issue(), folder), tls_client_ca=callers)
    assert models(running, authority.trusted(authority.issue("caller"))) == ["clf"]
    assert is_turned_away(running, authority.trusted())
    assert is_turned_away(running, authority.trusted(authority.issue("caller", days=-1)))
    assert is_turned_away(running, authority.trusted(Authority().issue("caller")))


def test_t71_callers_of_any_authority_of_a_bundle_are_served(
    repository: Publisher,
    start_server: StartServer,
    authority: Authority,
    folder: Path,
    always_looks: None,
) -> None:
    repository("clf", classifier())
    old, new, other = (Authority(name) for name in ("old", "new", "other"))
    callers = folder / "callers.pem"
    callers.write_bytes(old.certificate + new.certificate)
    running = start_server(**given(authority.issue(), folder), tls_client_ca=callers)
    of_old, of_new, of_other = (authority.trusted(one.issue("caller")) for one in (old, new, other))
    assert models(running, of_old) == models(running, of_new) == ["clf"]
    assert is_turned_away(running, of_other)
    with connected(running, of_old) as there:
        assert names(there) == ["clf"]
        callers.write_bytes(new.certificate + other.certificate)
        assert models(running, of_new) == models(running, of_other) == ["clf"]
        assert is_turned_away(running, of_old)
        # A connection that is there stays until its age.
        assert names(there) == ["clf"]


def test_t71_twenty_swaps_under_load_fail_no_call(
    repository: Publisher,
    start_server: StartServer,
    authority: Authority,
    folder: Path,
    always_looks: None,
) -> None:
    """Callers with a connection trust the first certificate only, so it is theirs to the end."""
    repository("clf", classifier())
    first = Authority("the first's")

    running = start_server(**dict(zip(FILES, first.issue().mount(folder), strict=True)))
    over = threading.Event()
    answered = [threading.Event() for _ in range(3)]
    failed: list[BaseException] = []

    def call(number: int) -> None:
        """Calls over one connection, or over a new one each time."""
        try:
            with connected(running, first.trusted()) as stub:
                while not over.is_set():
                    assert (names(stub) if number else models(running, both)) == ["clf"]
                    answered[number].set()
        except BaseException as error:  # noqa: BLE001  # the test tells
            failed.append(error)
            answered[number].set()

    both = grpc.ssl_channel_credentials(first.certificate + authority.certificate)
    callers = [threading.Thread(target=call, args=(number,)) for number in range(len(answered))]

    def wait_until_all_are_answered_again() -> None:
        for one in answered:
            one.clear()
        assert all(one.wait(PATIENCE) for one in answered)

    for caller in callers:
        caller.start()
    try:
        wait_until_all_are_answered_again()
        for _ in range(SWAPS):
            pair = authority.issue()
            pair.mount(folder)
            assert serial_shown(running.server.port) == pair.serial
            wait_until_all_are_answered_again()
    finally:
        over.set()
        for caller in callers:
            caller.join()
    assert not failed
    assert is_turned_away(running, first.trusted())


def test_t71_a_pair_that_cannot_be_used_keeps_the_one_before_and_shows(
    repository: Publisher,
    start_server: StartServer,
    authority: Authority,
    folder: Path,
    always_looks: None,
) -> None:
    repository("clf", classifier())
    old, new = authority.issue(days=1), authority.issue(days=5)
    running = start_server(**given(old, folder))

    def metrics() -> dict[str, float]:
        return certificate_metrics(get(f"{running.metrics_url}/metrics"))

    assert metrics() == {"expires_seconds": old.expires, "failing": 0}
    # Torn: the new certificate with the old key.
    (folder / "server.pem").write_bytes(new.certificate)
    with capture_logs() as lines:
        for _ in range(3):
            assert serial_shown(running.server.port) == old.serial
            assert models(running, authority.trusted()) == ["clf"]
            assert metrics() == {"expires_seconds": old.expires, "failing": 1}
    told = [line for line in lines if line["event"].startswith("certificates")]
    assert [line["event"] for line in told] == ["certificates_kept"]
    assert "server.key is not the key of" in told[0]["reason"]
    (folder / "server.key").write_bytes(new.key)
    assert serial_shown(running.server.port) == new.serial
    assert metrics() == {"expires_seconds": new.expires, "failing": 0}


def test_metrics_tell_nothing_of_certificates_where_there_are_none(
    start_server: StartServer,
) -> None:
    running = start_server()
    assert certificate_metrics(get(f"{running.metrics_url}/metrics")) == {}


def test_metrics_and_probes_are_served_by_tls_with_the_certificate_that_holds(
    repository: Publisher,
    start_server: StartServer,
    authority: Authority,
    folder: Path,
    always_looks: None,
) -> None:
    repository("clf", classifier())
    callers = folder / "callers.pem"
    callers.write_bytes(authority.certificate)
    # Probes have no certificate, whatever is asked of other callers.
    running = start_server(
        **given(authority.issue(days=1), folder), tls_client_ca=callers, metrics_tls=True
    )
    port = running.server.metrics_port
    url = f"https://localhost:{port}"
    assert get(f"{url}/readyz", authority) == "ready\n"
    assert "forwardpass_model_info" in get(f"{url}/metrics", authority)
    with pytest.raises(URLError, match="certificate verify failed"):
        get(f"{url}/readyz", Authority())
    with pytest.raises(OSError, match=r"reset|closed|EOF"):
        get(f"{running.metrics_url}/readyz")
    new = authority.issue(days=5)
    new.write(folder)
    assert serial_shown(port) == new.serial
    assert certificate_metrics(get(f"{url}/metrics", authority))["expires_seconds"] == new.expires


def test_who_does_not_begin_with_tls_holds_up_no_probe(
    start_server: StartServer,
    authority: Authority,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    running = start_server(**given(authority.issue(), folder), metrics_tls=True)
    port = running.server.metrics_port
    with capture_logs() as lines, ExitStack() as stack:
        for _ in range(20):
            stack.enter_context(socket.create_connection(("127.0.0.1", port), PATIENCE))
        assert get(f"https://localhost:{port}/livez", authority) == "alive\n"
        # In the end it is left.
        monkeypatch.setattr(http, "_PATIENCE", 0.05)
        with socket.create_connection(("127.0.0.1", port), PATIENCE) as one:
            assert one.recv(1) == b""
        stack.close()
        wait_until(lambda: len(lines) == 21)
    assert {(line["log_level"], line["event"]) for line in lines} == {("debug", "request_broken")}


def wait_until(holds: Callable[[], bool]) -> None:
    """Waits for what the threads of callers do after they have closed the connection."""
    for _ in range(6_000):
        if holds():
            return
        threading.Event().wait(0.01)
    raise AssertionError("not within a minute")


def test_t138_a_file_that_cannot_be_used_is_named_with_its_setting(
    repository: Publisher, authority: Authority, tmp_path: Path, folder: Path, transport: str
) -> None:
    secret = ec.generate_private_key(ec.SECP256R1())
    certificate, key = authority.issue(key=secret).write(folder)
    _, other = authority.issue().write(folder, "other")
    text, nowhere, locked = (tmp_path / name for name in ("text.pem", "no.pem", "locked.key"))
    text.write_text("no PEM\n")
    torn = tmp_path / "torn.pem"
    torn.write_bytes(certificate.read_bytes().replace(b"M", b"!"))
    locked.write_bytes(pem_of(secret, b"secret"))
    files = {"tls_certificate": certificate, "tls_key": key}
    cases: Sequence[tuple[dict[str, Any], str]] = [
        ({"tls_certificate": text}, f"'tls_certificate': {text} is no PEM file of certificates"),
        ({"tls_certificate": key}, f"'tls_certificate': {key} is no PEM file of certificates"),
        ({"tls_certificate": torn}, f"'tls_certificate': {torn} is no PEM file of certificates"),
        ({"tls_key": text}, f"'tls_key': {text} is no PEM file of a private key"),
        ({"tls_key": certificate}, f"'tls_key': {certificate} is no PEM file of a private key"),
        ({"tls_key": locked}, f"'tls_key': {locked} is no PEM file of a private key without a"),
        ({"tls_key": other}, f"'tls_key': {other} is not the key of {certificate}"),
        ({"tls_client_ca": text}, f"'tls_client_ca': {text} is no PEM file of certificates"),
        ({"tls_client_ca": nowhere}, f"'tls_client_ca': cannot read {nowhere}: No such file"),
        ({"tls_key": tmp_path}, f"'tls_key': {tmp_path} is not a plain file"),
        ({"tls_certificate": nowhere}, f"'tls_certificate': cannot read {nowhere}: No such file"),
    ]
    for changed, message in cases:
        with pytest.raises(TlsError) as caught:
            Server(Settings(models=repository.root, transport=transport, **(files | changed)))
        assert message in str(caught.value)
