"""Servers that can be killed, and others that take their place."""

import json
import socket
import subprocess
import sys
import threading
from contextlib import ExitStack
from pathlib import Path


class Servers:
    """Starts servers on one port, one after another."""

    def __init__(self, repository: Path, stack: ExitStack) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.address = f"127.0.0.1:{self.port}"
        self._repository = repository
        self._process: subprocess.Popen[str] | None = None
        self._drain = threading.Thread()
        stack.callback(self.kill)

    def start(self, *flags: str) -> None:
        """Starts a server; returns once it listens."""
        code = "from forwardpass.server.cli import main; main()"
        self._process = subprocess.Popen(
            [
                *(sys.executable, "-c", code, str(self._repository), "--log-format", "json"),
                *("--port", str(self.port), "--metrics-port", "0", "--watch", *flags),
            ],
            stderr=subprocess.PIPE,
            text=True,
        )
        lines = self._process.stderr
        assert lines is not None
        for line in lines:
            if json.loads(line)["event"] == "listening":
                break
        else:
            raise AssertionError("the server has ended")
        # What it says later is of no interest, and must not fill the pipe.
        self._drain = threading.Thread(target=lines.read)
        self._drain.start()

    def kill(self) -> None:
        """Kills the server, if there is one."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._drain.join()
            assert self._process.stderr is not None
            self._process.stderr.close()
            self._process = None
