"""Proxies as deploy/proxies has them: only addresses and ports are a test's own."""

import json
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import grpc
from certificates import Authority

from .sources import ROOT

SOURCES = ROOT / "deploy/proxies"
PATIENCE = 30
ENDPOINT = "endpoint: {{address: {{socket_address: {{address: {0}, port_value: {1}}}}}}}"


class Proxy(ABC):
    """A proxy in a process of its own, in front of servers.

    Args:
        program: Where its program is.
        folder: Where its configuration goes, and what it writes.
        servers: The addresses behind it.

    Attributes:
        authority: Has issued its certificate.
        address: Where it takes calls, by TLS.
        ca: The authority's certificate, in a file.
    """

    def __init__(self, program: str, folder: Path, servers: Iterable[str]) -> None:
        shutil.copytree(SOURCES, folder, dirs_exist_ok=True)
        self.authority = Authority()
        pair = self.authority.issue()
        (folder / "tls").mkdir()
        (folder / "tls/tls.crt").write_bytes(pair.certificate)
        (folder / "tls/tls.key").write_bytes(pair.key)
        self.ca = folder / "ca.pem"
        self.ca.write_bytes(self.authority.certificate)
        self._program, self._folder = program, folder
        self._list(servers)
        self.process = self._start()
        try:
            self.address = f"127.0.0.1:{self._port()}"
            with self.connect() as channel:
                grpc.channel_ready_future(channel).result(PATIENCE)
        except BaseException:
            self.stop()
            raise

    def connect(self) -> grpc.Channel:
        """Returns a connection of its own."""
        return grpc.secure_channel(
            self.address,
            self.authority.trusted(),
            [
                ("grpc.use_local_subchannel_pool", 1),
            ],
        )

    def stop(self) -> None:
        """Ends it at once, with the processes that it has started."""
        self.process.terminate()
        self.process.wait(PATIENCE)

    @abstractmethod
    def _list(self, servers: Iterable[str]) -> None:
        """Writes the list of servers."""

    @abstractmethod
    def _start(self) -> "subprocess.Popen[bytes]":
        """Starts the program."""

    @abstractmethod
    def _port(self) -> int:
        """Returns the port, once calls to it may be made."""

    def _write(self, name: str, text: str) -> None:
        new = self._folder / f"{name}.new"
        new.write_text(text, encoding="ascii")
        new.replace(self._folder / name)

    def _replace(self, name: str, old: str, new: str) -> None:
        text = (self._folder / name).read_text(encoding="ascii")
        assert text.count(old) == 1, f"{name} has {old!r} {text.count(old)} times, not once"
        self._write(name, text.replace(old, new))


class Envoy(Proxy):
    """Envoy, which chooses its own ports, and tells what it thinks of the servers."""

    def _list(self, servers: Iterable[str]) -> None:
        head, _, _ = (self._folder / "endpoints.yaml").read_text("ascii").partition("          -")
        rows = [f"          - {ENDPOINT.format(*each.rsplit(':'))}\n" for each in servers]
        self._write("endpoints.yaml", head + "".join(rows))

    def _start(self) -> "subprocess.Popen[bytes]":
        for port in (8443, 9901):
            self._replace("envoy.yaml", f"port_value: {port}", "port_value: 0")
        # Envoys share memory by their base id, which one alone on a machine need not be told.
        own = ("--use-dynamic-base-id", "--log-level", "error", "--concurrency", "1")
        return subprocess.Popen(
            [self._program, "-c", "envoy.yaml", "--admin-address-path", "admin", *own],
            cwd=self._folder,
        )

    def _port(self) -> int:
        admin = self._folder / "admin"
        wait_for(lambda: admin.exists() and admin.stat().st_size, self.process)
        # Before the servers have been looked at no port is listened to.
        wait_for(lambda: self._ask("listeners?format=json").get("listener_statuses"), self.process)
        (listener,) = self._ask("listeners?format=json")["listener_statuses"]
        port: int = listener["local_address"]["socket_address"]["port_value"]
        return port

    def healthy(self) -> set[str]:
        """Returns the addresses of the servers that get calls."""
        (cluster,) = self._ask("clusters?format=json")["cluster_statuses"]
        return {
            "{address}:{port_value}".format(**host["address"]["socket_address"])
            for host in cluster["host_statuses"]
            if host["health_status"] == {"eds_health_status": "HEALTHY"}
        }

    def _ask(self, page: str) -> Any:
        address = (self._folder / "admin").read_text(encoding="ascii")
        with urllib.request.urlopen(f"http://{address}/{page}", timeout=PATIENCE) as response:
            return json.load(response)


class Nginx(Proxy):
    """nginx, whose list of servers is read anew when it is told to."""

    def _list(self, servers: Iterable[str]) -> None:
        self._write("upstream.conf", "".join(f"server {each};\n" for each in servers))

    def _start(self) -> "subprocess.Popen[bytes]":
        with socket.create_server(("127.0.0.1", 0)) as free:
            self._free: int = free.getsockname()[1]
        self._replace("nginx.conf", "listen 8443", f"listen 127.0.0.1:{self._free}")
        return subprocess.Popen([*self._command, "-g", "daemon off;"])

    def _port(self) -> int:
        wait_for((self._folder / "nginx.pid").exists, self.process)
        return self._free

    @property
    def _command(self) -> list[str]:
        return [self._program, "-p", str(self._folder), "-c", "nginx.conf", "-e", "stderr"]

    def serve(self, *servers: str) -> None:
        """Takes up another list, and returns when the calls to the old one have ended."""
        before = self._workers()
        self._list(servers)
        subprocess.run([*self._command, "-s", "reload"], check=True, timeout=PATIENCE)
        wait_for(lambda: self._workers() and not self._workers() & before, self.process)

    def _workers(self) -> set[str]:
        pid = self.process.pid
        return {*Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()}


def wait_for(is_so: Callable[[], object], process: "subprocess.Popen[bytes]") -> None:
    """Asks until it is so; a proxy that has ended will never make it so."""
    deadline = time.monotonic() + PATIENCE
    while not is_so():
        assert process.poll() is None, "the proxy has ended; its log says why"
        assert time.monotonic() < deadline, "the proxy was not there in time"
        time.sleep(0.05)
