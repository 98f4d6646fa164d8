"""T69: tokens as no gRPC library would send them, to a server that is a process of its own."""

import signal
import socket
from pathlib import Path

from hpack import Decoder, Encoder
from http2 import PREFACE, read_frames
from hyperframe.frame import DataFrame, HeadersFrame, SettingsFrame
from server.test_process import serving
from tiny_models import Publisher

from .harness import PATIENCE

TOKEN = b"s3cret-s3cret"
UNAUTHENTICATED, OK = "16", "0"
VALUES: dict[bytes, str] = {
    b"Bearer " + TOKEN: OK,
    b"Bearer " + "s3cret-sécret".encode(): UNAUTHENTICATED,
    # grpcio tells these bytes to Python's `logging`, which nobody reads here.
    b"Bearer " + TOKEN + b"\xff": UNAUTHENTICATED,
    b"Bearer \xff" + TOKEN: UNAUTHENTICATED,
    b"Bearer " + TOKEN + b"\x01": UNAUTHENTICATED,
    b"Bearer " + TOKEN + b"\x7f": UNAUTHENTICATED,
    b"Bearer\t" + TOKEN: UNAUTHENTICATED,
    b"\xff\xfe" + TOKEN: UNAUTHENTICATED,
    b"": UNAUTHENTICATED,
    b" ": UNAUTHENTICATED,
}


def statuses(port: int) -> list[str]:
    """Returns the status of a call for each value, all on one connection."""
    encoder, decoder = Encoder(), Decoder()
    frames = [PREFACE, SettingsFrame(0).serialize(), SettingsFrame(0, flags=["ACK"]).serialize()]
    for index, value in enumerate(VALUES):
        block = encoder.encode(
            [
                (b":method", b"POST"),
                (b":scheme", b"http"),
                (b":path", b"/forwardpass.v1.ModelService/ListModels"),
                (b":authority", b"localhost"),
                (b"te", b"trailers"),
                (b"content-type", b"application/grpc"),
                (b"authorization", value),
            ]
        )
        frames += [
            HeadersFrame(2 * index + 1, block, flags=["END_HEADERS"]).serialize(),
            DataFrame(2 * index + 1, bytes(5), flags=["END_STREAM"]).serialize(),
        ]
    found: dict[int, str] = {}
    with socket.create_connection(("127.0.0.1", port), PATIENCE) as connection:
        connection.sendall(b"".join(frames))
        for frame in read_frames(connection):
            if isinstance(frame, HeadersFrame):
                fields = dict(decoder.decode(frame.data, raw=True))
                assert b"s3cret" not in b"".join(fields.values())
                if b"grpc-status" in fields:
                    found[frame.stream_id] = fields[b"grpc-status"].decode()
            if len(found) == len(VALUES):
                break
    return [found[stream] for stream in sorted(found)]


def test_t69_a_token_of_any_bytes_is_refused_and_never_logged(
    repository: Publisher, transport: str, tmp_path: Path
) -> None:
    tokens = tmp_path / "tokens.toml"
    tokens.write_text(
        f'[[tokens]]\nname = "a"\ntoken = "{TOKEN.decode()}"\npermissions = ["read"]\n'
    )
    flags = ("--tokens-file", str(tokens), "--transport", transport, "--log-level", "debug")
    with serving(repository.root, *flags) as server:
        assert statuses(server.port) == list(VALUES.values())
        server.signal(signal.SIGTERM)
        assert server.finish() == 0
        assert "s3cret" not in str(server.lines)
