"""/metrics, /livez, /readyz and /startedz over HTTP, on a port and threads of their own.

Kubernetes' probes and Prometheus come here, so that neither needs gRPC, nor a certificate to show.
"""

import errno
import io
import socket
import sys
import threading
import time
from collections.abc import Callable
from selectors import EVENT_READ, DefaultSelector
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer
from wsgiref.types import WSGIApplication

import structlog
from prometheus_client import CollectorRegistry

from forwardpass.server.metrics.collector import ReadyCollector
from forwardpass.server.metrics.pages import pages
from forwardpass.server.process.descriptors import Reserve
from forwardpass.server.transport.address import address_of, refused
from forwardpass.server.transport.certificate_files import CertificateFiles

# How long a caller may let us wait for its next bytes, and for it to take ours; less where others
# may be waiting for its descriptor.
_PATIENCE, _PATIENCE_IN_NEED = 10.0, 1.0
# The most callers that wait to be accepted.
_BACKLOG = 128
# The most callers at a time while the process has no other descriptor left.
_RESERVED = 8
# Until a caller is accepted again, in seconds, after there was no descriptor for one.
_PAUSE = 0.1
# No descriptor is left: to this process, to the machine.
_EXHAUSTED = (errno.EMFILE, errno.ENFILE)
_log = structlog.get_logger()


class MetricsServer:
    """Serves until it is stopped, also while the process has no descriptor left for others.

    Args:
        host: The address to listen on.
        port: The port; 0 takes a free one.
        registry: What /metrics renders, beside whether the server is ready.
        ready: What /readyz asks.
        alive: What /livez asks.
        started: What /startedz asks.
        certificates: What to serve TLS with; None for no TLS.

    Raises:
        OSError: The address cannot be bound.
    """

    def __init__(  # noqa: PLR0917  # each is one thing
        self,
        host: str,
        port: int,
        registry: CollectorRegistry,
        ready: Callable[[], bool],
        alive: Callable[[], bool] = lambda: True,
        started: Callable[[], bool] = lambda: True,
        certificates: CertificateFiles | None = None,
    ) -> None:
        registry.register(ReadyCollector(ready))
        try:
            application = pages(registry, ready, alive, started)
            self._server = _Server(host, port, application, certificates)
        except OSError as error:
            raise refused(address_of(host, port), error) from error
        self._stopper, self._stopped = socket.socketpair()
        self._thread = threading.Thread(target=self._serve, name="metrics", daemon=True)
        self._thread.start()

    @property
    def port(self) -> int:
        """The port that it listens on."""
        return self._server.server_port

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


class _Handler(WSGIRequestHandler):
    def log_request(self, *_: object) -> None:
        """Says nothing: a probe every second is no news."""

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # http.server's name
        _log.debug("request_refused", reason=format % args)

    def get_stderr(self) -> io.StringIO:
        """Returns what takes the traceback of a caller who does not take its answer."""
        return io.StringIO()


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True
    request_queue_size = _BACKLOG
    # It does not wait, as a caller may be gone by the time it looks.
    timeout = 0

    def __init__(
        self,
        host: str,
        port: int,
        application: WSGIApplication,
        certificates: CertificateFiles | None,
    ) -> None:
        self._certificates = certificates
        self._reserve = Reserve(_RESERVED)
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
            address: Any
            self.address_family, _, _, _, address = found[0]
            super().__init__(address, _Handler)
        except OSError:
            self._reserve.close()
            raise
        self.set_app(application)

    def server_bind(self) -> None:
        if self.address_family == socket.AF_INET6:
            # As gRPC does: "::" is every address of IPv4 too.
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        super().server_bind()

    def get_request(self) -> tuple[socket.socket, Any]:
        patience = _PATIENCE
        while True:
            try:
                request, address = self.socket.accept()
            except OSError as error:
                if error.errno not in _EXHAUSTED:
                    raise
                if not self._reserve.release():
                    # The caller who waits would have us look again at once.
                    time.sleep(_PAUSE)
                    raise
                patience = _PATIENCE_IN_NEED
            else:
                request.settimeout(patience)
                return request, address

    def finish_request(self, request: Any, client_address: Any) -> None:
        """Answers on the caller's own thread, where it may also take its time to begin with TLS."""
        if self._certificates is None:
            super().finish_request(request, client_address)
            return
        context = self._certificates.current().context
        # It has the descriptor from now on, and closes it also where the caller has gone.
        secured = context.wrap_socket(request, server_side=True, do_handshake_on_connect=False)
        try:
            secured.do_handshake()
            super().finish_request(secured, client_address)
        finally:
            self.shutdown_request(secured)

    def close_request(self, request: Any) -> None:
        descriptor = request.detach()
        if descriptor >= 0:
            self._reserve.take_back(descriptor)

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002  # its name
        error = sys.exception()
        if isinstance(error, OSError):
            _log.debug("request_broken", reason=str(error))
        else:
            _log.error("request_failed", exc_info=error)

    def server_close(self) -> None:
        super().server_close()
        self._reserve.close()
