"""The clients in examples/clients/python, run as a reader would."""

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from conftest import StartServer
from looking_models import looks
from tiny_models import LABELS, Publisher, classifier

from forwardpass.pixels import encode_png

HOME = Path(__file__).parents[2] / "examples" / "clients" / "python"
# Which transport answers is no matter here.
pytestmark = pytest.mark.parametrize("transport", ["completion_queue"])


@pytest.fixture
def address(repository: Publisher, start_server: StartServer) -> str:
    repository("shapes", classifier())
    repository("looks", looks())
    return start_server().address


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    noise = np.random.default_rng(4).integers(0, 256, (70, 6, 5, 3), np.uint8)
    (tmp_path / "pictures").mkdir()
    for number, image in enumerate(noise):
        (tmp_path / "pictures" / f"{number:02}.png").write_bytes(encode_png(image))
    return tmp_path / "pictures"


def run(program: str, *arguments: str | Path) -> list[str]:
    ended = subprocess.run(
        [sys.executable, HOME / program, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.splitlines()


def test_every_picture_has_its_line(address: str, pictures: Path) -> None:
    (pictures / "05.png").write_bytes(b"no picture")
    lines = run("many.py", "shapes", pictures, address)
    assert len(lines) == 70
    names = {line.split(": ")[1].split(" (")[0] for row, line in enumerate(lines) if row != 5}
    assert names <= set(LABELS)
    assert lines[5].startswith(f"{pictures / '05.png'}: ")
    assert "neither" in lines[5]


def test_a_data_loader_has_its_workers_call(address: str, pictures: Path) -> None:
    assert run("data_loader.py", "looks", pictures, address) == ["(64, 4)", "(6, 4)"]


def test_a_pool_has_its_processes_call(address: str, pictures: Path) -> None:
    assert run("pool.py", "looks", pictures, address) == ["dimension 4", "(70, 4)"]


@pytest.fixture
def service(address: str) -> Iterator[str]:
    """The web service under gunicorn, which forks its workers from a process with the client."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "gunicorn", "--preload", "--workers", "3"),
                *("--chdir", str(HOME), "--bind", f"fd://{listener.fileno()}", "wsgi:application"),
            ],
            env={**os.environ, "MODEL": "shapes", "FORWARDPASS_SERVER": address},
            pass_fds=[listener.fileno()],
            stderr=subprocess.DEVNULL,
        )
        try:
            # It listens already; gunicorn answers once it has started.
            yield "http://127.0.0.1:{1}/".format(*listener.getsockname())
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)


def test_workers_of_gunicorn_call_from_their_own_processes(service: str, pictures: Path) -> None:
    processes: set[int] = set()
    while len(processes) < 3:
        picture = (pictures / "00.png").read_bytes()
        with urllib.request.urlopen(service, picture, timeout=60) as response:
            answer = json.load(response)
        processes.add(answer["process"])
        assert set(answer["classes"]) <= set(LABELS)
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(service, b"no picture", timeout=60)
    with refused.value as error:
        assert error.code == 400
        assert "neither" in json.load(error)["error"]
