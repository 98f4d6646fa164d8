"""What goes over the connection beside the request: deadline, token, retries, TLS."""

from pathlib import Path

import grpc
import numpy as np
import pytest

from forwardpass.client import InvalidInput, InvalidSetting, Overloaded, TimedOut, Tls, Unavailable
from forwardpass.v1 import inference_service_pb2 as pb
from forwardpass.wire import Failure, Reason

from .scripted import Connect, Refusal, StartScripted

BOTH_CLIENTS = True
ANSWER = pb.PredictResponse()
# Milliseconds. gRPC never tries again after a wait of 0.
AT_ONCE = "1"
NEVER = "-1"


def refusal(reason: Reason, pushback: str | None = AT_ONCE) -> Refusal:
    return Refusal.of(Failure(reason, "not now"), pushback)


def test_every_call_has_a_deadline(scripted: StartScripted, connect: Connect) -> None:
    server = scripted(ANSWER)
    connect(server.target).predict("m")
    connect(server.target, timeout=100).predict("m")
    connect(server.target, timeout=100).predict("m", timeout=1000)
    lefts = [seen.seconds_left for seen in server.seen]
    # The wire rounds long times up.
    assert 0 < lefts[0] < 50 < lefts[1] < 200 < lefts[2] < 2000


def test_the_token_goes_with_every_call(scripted: StartScripted, connect: Connect) -> None:
    server = scripted(ANSWER)
    connect(server.target, token="s3cret").predict("m")
    connect(server.target).predict("m")
    assert server.seen[0].metadata["authorization"] == "Bearer s3cret"
    assert "authorization" not in server.seen[1].metadata
    assert str(server.seen[1].metadata["user-agent"]).startswith("forwardpass/")


@pytest.mark.parametrize("token", ["line end\n", "żółw", "nul\0"])
def test_a_token_that_cannot_be_sent_is_refused_and_not_shown(token: str, connect: Connect) -> None:
    with pytest.raises(InvalidSetting, match="printable ASCII") as raised:
        connect("127.0.0.1:1", token=token)
    assert token not in str(raised.value)


def test_a_version_is_a_number_or_a_label(scripted: StartScripted, connect: Connect) -> None:
    server = scripted(ANSWER)
    client = connect(server.target)
    for version in (None, 3, "stable"):
        client.predict("m", version=version)
    models = [seen.request.model for seen in server.seen]
    assert [model.WhichOneof("selector") for model in models] == [None, "version", "label"]
    assert (models[1].version, models[2].label) == (3, "stable")


def test_calls_go_to_every_address_in_turn(scripted: StartScripted, connect: Connect) -> None:
    servers = [scripted(ANSWER), scripted(ANSWER)]
    client = connect("ipv4:" + ",".join(server.target for server in servers))
    # The second connection may take a moment more than the first.
    while not all(server.seen for server in servers):
        client.predict("m")
    before = [len(server.seen) for server in servers]
    for _ in range(20):
        client.predict("m")
    assert [len(server.seen) for server in servers] == [count + 10 for count in before]


@pytest.mark.parametrize("reason", [Reason.QUEUE_FULL, Reason.SHUTTING_DOWN, Reason.MODEL_LOADING])
def test_a_passing_refusal_is_tried_again(
    reason: Reason, scripted: StartScripted, connect: Connect
) -> None:
    server = scripted(refusal(reason), refusal(reason), refusal(reason), ANSWER)
    connect(server.target).predict("m", top_k=2)
    assert [seen.request.top_k for seen in server.seen] == [2, 2, 2, 2]


def test_a_large_request_is_tried_again_too(scripted: StartScripted, connect: Connect) -> None:
    server = scripted(refusal(Reason.QUEUE_FULL), ANSWER)
    pixels = bytes(3 << 20)
    connect(server.target).predict("m", images=[pixels])
    assert [seen.request.images[0] == pixels for seen in server.seen] == [True, True]


def test_four_tries_are_the_end_of_it(scripted: StartScripted, connect: Connect) -> None:
    server = scripted(refusal(Reason.QUEUE_FULL))
    with pytest.raises(Overloaded, match="not now"):
        connect(server.target).predict("m")
    assert len(server.seen) == 4


@pytest.mark.parametrize("reason", [Reason.QUEUE_FULL, Reason.SHUTTING_DOWN])
def test_a_server_can_forbid_another_try(
    reason: Reason, scripted: StartScripted, connect: Connect
) -> None:
    server = scripted(refusal(reason, NEVER), ANSWER)
    with pytest.raises((Overloaded, Unavailable)):
        connect(server.target).predict("m")
    assert len(server.seen) == 1


def test_a_server_can_delay_the_next_try(scripted: StartScripted, connect: Connect) -> None:
    # Left to itself the client would try again after a tenth of a second, and have its answer.
    server = scripted(refusal(Reason.QUEUE_FULL, pushback="60000"), ANSWER)
    with pytest.raises(TimedOut):
        connect(server.target).predict("m", timeout=0.5)
    assert len(server.seen) == 1


@pytest.mark.parametrize(
    "reason", sorted(set(Reason) - {Reason.QUEUE_FULL, Reason.SHUTTING_DOWN, Reason.MODEL_LOADING})
)
def test_a_lasting_refusal_is_not_tried_again(
    reason: Reason, scripted: StartScripted, connect: Connect
) -> None:
    server = scripted(refusal(reason, None), ANSWER)
    with pytest.raises(Exception, match="not now"):
        connect(server.target).predict("m")
    assert len(server.seen) == 1


def test_retries_stop_when_most_calls_fail(scripted: StartScripted, connect: Connect) -> None:
    server = scripted(refusal(Reason.QUEUE_FULL))
    client = connect(server.target)
    attempts = []
    for _ in range(60):
        before = len(server.seen)
        with pytest.raises(Overloaded):
            client.predict("m")
        attempts.append(len(server.seen) - before)
    assert attempts[0] == 4
    assert attempts[-1] == 1


def test_tls(
    keys: Path, scripted: StartScripted, connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    pair = ((keys / "server.key").read_bytes(), (keys / "server.pem").read_bytes())
    server = scripted(ANSWER, credentials=grpc.ssl_server_credentials([pair]))
    connect(server.target, tls=Tls(keys / "root.pem")).predict("m")
    untrusted = "signed by nobody that is trusted here"
    for tls, why in (
        (Tls(keys / "stranger.pem"), untrusted),
        (Tls(), untrusted),
        (None, "it may want TLS"),
    ):
        with pytest.raises(Unavailable, match=why):
            connect(server.target, tls=tls).predict("m", timeout=5)
    # The certificate is for the address, and for no name.
    named = connect(server.target.replace("127.0.0.1", "localhost"), tls=Tls(keys / "root.pem"))
    with pytest.raises(Unavailable, match="is for another name than that of this address"):
        named.predict("m", timeout=5)
    assert len(server.seen) == 1
    # Another try would not mend what is wrong with a certificate.
    assert not any("CERTIFICATE_VERIFY_FAILED" in record.getMessage() for record in caplog.records)
    connect(
        server.target.replace("127.0.0.1", "localhost"),
        tls=Tls(keys / "root.pem", name="127.0.0.1"),
    ).predict("m")


def test_tls_with_a_client_certificate(
    keys: Path, scripted: StartScripted, connect: Connect
) -> None:
    pair = ((keys / "server.key").read_bytes(), (keys / "server.pem").read_bytes())
    credentials = grpc.ssl_server_credentials(
        [pair], (keys / "root.pem").read_bytes(), require_client_auth=True
    )
    server = scripted(ANSWER, credentials=credentials)
    tls = Tls(keys / "root.pem", keys / "client.pem", keys / "client.key")
    connect(server.target, tls=tls).predict("m")
    with pytest.raises(Unavailable, match="or a certificate of the caller's"):
        connect(server.target, tls=Tls(keys / "root.pem")).predict("m", timeout=5)
    assert len(server.seen) == 1


def test_a_server_without_tls_says_so(
    keys: Path, scripted: StartScripted, connect: Connect
) -> None:
    server = scripted(ANSWER)
    with pytest.raises(Unavailable, match="does not speak TLS"):
        connect(server.target, tls=Tls(keys / "root.pem")).predict("m", timeout=5)


def test_a_name_that_cannot_be_resolved_says_so(connect: Connect) -> None:
    with pytest.raises(Unavailable, match="the name cannot be resolved"):
        connect("nowhere.invalid:8001").predict("m", timeout=5)


@pytest.mark.parametrize("target", ["127.0.0.1:99999", "localhost:0", "dns:///models:65536"])
def test_a_port_that_is_none_is_not_dialled(target: str, connect: Connect) -> None:
    with pytest.raises(InvalidSetting, match="ports are from 1 to 65535"):
        connect(target)


def test_tls_files_are_checked_at_once(tmp_path: Path, connect: Connect) -> None:
    with pytest.raises(InvalidSetting, match="together"):
        Tls(certificate=tmp_path / "client.pem")
    with pytest.raises(FileNotFoundError, match=r"missing\.pem"):
        connect("127.0.0.1:1", tls=Tls(tmp_path / "missing.pem"))


@pytest.mark.parametrize(
    ("names", "why"),
    [
        (["root.key"], r"root\.key holds no PEM certificate to trust"),
        (["root.pem", "client.csr", "client.key"], r"client\.csr and .* are no PEM certificate"),
        (["root.pem", "client.pem", "server.key"], r"server\.key is not that of .*client\.pem"),
    ],
)
def test_tls_files_that_are_something_else_are_named(
    keys: Path, connect: Connect, names: list[str], why: str
) -> None:
    ca, certificate, key = [*(keys / name for name in names), None, None][:3]
    with pytest.raises(InvalidSetting, match=why):
        connect("127.0.0.1:1", tls=Tls(ca, certificate, key))


def test_what_cannot_be_sent_is_not_sent(scripted: StartScripted, connect: Connect) -> None:
    server = scripted(ANSWER)
    client = connect(server.target)
    half_a_pair = "\ud800"
    for refused in (
        lambda: client.predict(half_a_pair),
        lambda: client.predict("m", version=half_a_pair),
        lambda: client.predict("m", version=-1),
        lambda: client.predict("m", version=2**63),
        lambda: client.predict("m", top_k=-1),
        lambda: client.predict("m", texts=["fine", half_a_pair]),
        lambda: client.predict("m", {"x": np.zeros(2, np.complex64)}),
        lambda: client.generate("m", seed=2**64),
        lambda: client.generate("m", count=-1),
        lambda: client.generate("m", class_=-1),
        lambda: client.generate("m", prompt=half_a_pair),
        lambda: client.generate("m", latents=[["no number"]]),
    ):
        with pytest.raises(InvalidInput) as raised:
            refused()
        assert raised.value.field
    assert not server.seen
