"""Other model servers, each in a virtual environment of its own, kept for the next time."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Self

import grpc

from benchmarks.calls import connect
from benchmarks.serving import SERVER_CORES, pinned
from forwardpass.wire.open_inference import SERVICE, message_class

# How long a start and a stop may take, in seconds, and how often we look.
_START, _STOP, _PAUSE = 120.0, 30.0, 0.2
_LAST_LINES = 15


class Unavailable(Exception):
    """A server that cannot be installed or does not start; the message says why."""


def environment(folder: Path, package: str) -> Path:
    """Returns the folder of the programs of a virtual environment that has the package.

    Made where it is not there yet, with the onnxruntime that we have.

    Args:
        folder: Where environments are kept.
        package: What pip is asked for, "name==version".

    Raises:
        Unavailable: pip does not install it.
    """
    home = folder / package.replace("==", "-")
    if not (home / "installed").exists():
        shutil.rmtree(home, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", str(home)], check=True)
        runtime = f"onnxruntime=={version('onnxruntime')}"
        pip = [str(home / "bin" / "python"), "-m", "pip", "install", "--quiet", package, runtime]
        done = subprocess.run(pip, capture_output=True, text=True, check=False)
        if done.returncode:
            raise Unavailable(f"pip does not install {package}: {_end(done.stderr)}")
        (home / "installed").touch()
    return home / "bin"


def free_ports(count: int) -> list[int]:
    """Returns ports of the loopback address that nothing listens on now."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


@dataclass(frozen=True)
class Foreign:
    """A server of others, with all its processes on the servers' core.

    Attributes:
        process: The first process; the others are of its group.
        address: Where it answers gRPC.
    """

    process: subprocess.Popen[bytes]
    address: str

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Asks its processes to end, and ends those that do not."""
        with suppress(ProcessLookupError, subprocess.TimeoutExpired):
            os.killpg(self.process.pid, signal.SIGTERM)
            self.process.wait(_STOP)
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def start_foreign(command: Sequence[str], port: int, model: str, folder: Path) -> Foreign:
    """Starts a server and waits until it says by the Open Inference Protocol that a model is ready.

    Args:
        command: Starts it; does not see our packages.
        port: Where it will answer gRPC.
        model: The model's name.
        folder: Where it runs, and where its log goes.

    Raises:
        Unavailable: It ends, or is not ready in time.
    """
    log = folder / "log"
    hidden = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    with log.open("wb") as output:
        process = subprocess.Popen(
            pinned(command, SERVER_CORES),
            cwd=folder,
            env=hidden | {"ORT_DISABLE_TELEMETRY": "1", "XDG_CACHE_HOME": str(folder)},
            stdout=output,
            stderr=subprocess.STDOUT,
            # A group of its own, as some servers are several processes.
            start_new_session=True,
        )
    foreign = Foreign(process, f"127.0.0.1:{port}")
    until = time.monotonic() + _START
    while process.poll() is None and time.monotonic() < until:
        if _is_ready(foreign.address, model):
            return foreign
        time.sleep(_PAUSE)
    ended = process.poll() is not None
    with foreign:
        told = _end(log.read_text(encoding="utf-8", errors="replace"))
    raise Unavailable(f"{'it ended' if ended else f'not ready in {_START:.0f} s'}:\n{told}")


def _is_ready(address: str, model: str) -> bool:
    request = message_class("ModelReadyRequest")(name=model).SerializeToString()
    with connect(address) as channel:
        call: Any = channel.unary_unary(
            f"/{SERVICE}/ModelReady",
            response_deserializer=message_class("ModelReadyResponse").FromString,
        )
        try:
            return bool(call(request, timeout=1.0).ready)
        except grpc.RpcError:
            return False


def _end(text: str) -> str:
    return "\n".join(text.strip().splitlines()[-_LAST_LINES:])
