"""/metrics, /livez and /readyz over HTTP, on a port and threads of their own.

Kubernetes' probes and Prometheus come here, so that neither needs gRPC or its certificates.
"""

import socket
import threading
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from selectors import EVENT_READ, DefaultSelector

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

_SECONDS_PER_REQUEST = 10


class MetricsServer:
    """Serves until it is stopped.

    Args:
        host: The address to listen on.
        port: The port; 0 takes a free one.
        registry: What /metrics renders.
        ready: What /readyz asks.
        alive: What /livez asks.

    Raises:
        OSError: The address cannot be bound.
    """

    def __init__(
        self,
        host: str,
        port: int,
        registry: CollectorRegistry,
        ready: Callable[[], bool],
        alive: Callable[[], bool] = lambda: True,
    ) -> None:
        class Handler(BaseHTTPRequestHandler):
            timeout = _SECONDS_PER_REQUEST

            def do_GET(self) -> None:  # http.server's name
                if self.path == "/metrics":
                    self._answer(HTTPStatus.OK, CONTENT_TYPE_LATEST, generate_latest(registry))
                elif self.path == "/livez":
                    self._say_whether(alive(), "alive")
                elif self.path == "/readyz":
                    self._say_whether(ready(), "ready")
                else:
                    self._say(HTTPStatus.NOT_FOUND, "try /metrics, /livez or /readyz")

            def _say_whether(self, holds: bool, what: str) -> None:
                if holds:
                    self._say(HTTPStatus.OK, what)
                else:
                    self._say(HTTPStatus.SERVICE_UNAVAILABLE, f"not {what}")

            def _say(self, status: HTTPStatus, text: str) -> None:
                self._answer(status, "text/plain; charset=utf-8", f"{text}\n".encode())

            def _answer(self, status: HTTPStatus, content_type: str, body: bytes) -> None:
                self.send_response(status)
                self.send_header("Content-Type", content_type)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                """Says nothing: a probe every second is no news."""

        self._server = ThreadingHTTPServer((host, port), Handler)
        self._server.daemon_threads = True
        # It does not wait, as a caller may be gone by the time it looks.
        self._server.timeout = 0
        self._stopper, self._stopped = socket.socketpair()
        self._thread = threading.Thread(target=self._serve, name="metrics", daemon=True)
        self._thread.start()

    @property
    def port(self) -> int:
        """The port that it listens on."""
        return int(self._server.server_address[1])

    def stop(self) -> None:
        """Stops listening."""
        self._stopper.close()
        self._thread.join()
        self._server.server_close()

    def _serve(self) -> None:
        """Answers until `stop`. `serve_forever` would wake up every so often to look for that."""
        with DefaultSelector() as selector, self._stopped:
            selector.register(self._server, EVENT_READ)
            selector.register(self._stopped, EVENT_READ)
            while all(key.fileobj is not self._stopped for key, _ in selector.select()):
                self._server.handle_request()
