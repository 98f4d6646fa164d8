"""What is answered on the port of the metrics and probes, as a WSGI application."""

from collections.abc import Callable, Iterable, Mapping
from http import HTTPStatus
from typing import TypeAlias
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

import structlog
from prometheus_client import CollectorRegistry, make_wsgi_app
from prometheus_client.exposition import choose_encoder

# A status, headers, and what follows them.
_Answer: TypeAlias = tuple[str, list[tuple[str, str]], bytes]
_Page: TypeAlias = Callable[[WSGIEnvironment], _Answer]
_METHODS = ("GET", "HEAD")
_log = structlog.get_logger()


def pages(
    registry: CollectorRegistry,
    ready: Callable[[], bool],
    alive: Callable[[], bool],
    started: Callable[[], bool],
) -> WSGIApplication:
    """Returns the application of /metrics, /livez, /readyz and /startedz.

    Args:
        registry: What /metrics renders, in the form that the caller asks for.
        ready: What /readyz asks.
        alive: What /livez asks.
        started: What /startedz asks.
    """
    found = {
        "/metrics": _metrics(registry),
        "/livez": lambda _: _whether(alive(), "alive"),
        "/readyz": lambda _: _whether(ready(), "ready"),
        "/startedz": lambda _: _whether(started(), "started"),
    }

    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        status, headers, body = _answer(found, environ)
        start_response(status, [*headers, ("Content-Length", str(len(body)))])
        return [] if environ["REQUEST_METHOD"] == "HEAD" else [body]

    return application


def _answer(found: Mapping[str, _Page], environ: WSGIEnvironment) -> _Answer:
    page = found.get(environ["PATH_INFO"])
    if page is None:
        return _text(HTTPStatus.NOT_FOUND, f"try {', '.join(found)}")
    if environ["REQUEST_METHOD"] not in _METHODS:
        status, headers, body = _text(HTTPStatus.METHOD_NOT_ALLOWED, f"try {', '.join(_METHODS)}")
        return status, [*headers, ("Allow", ", ".join(_METHODS))], body
    try:
        return page(environ)
    except Exception:  # noqa: BLE001  # logged with its traceback
        _log.exception("page_failed", path=environ["PATH_INFO"])
        return _text(HTTPStatus.INTERNAL_SERVER_ERROR, "the server's log says why")


def _metrics(registry: CollectorRegistry) -> _Page:
    render = make_wsgi_app(registry)

    def page(environ: WSGIEnvironment) -> _Answer:
        started: list[tuple[str, list[tuple[str, str]]]] = []
        # It takes nothing but GET. A query would have it look for names that our collectors do not
        # tell before they are asked for everything.
        asked = {**environ, "REQUEST_METHOD": "GET", "QUERY_STRING": ""}
        try:
            choose_encoder(asked.get("HTTP_ACCEPT", ""))
        except (TypeError, ValueError):
            # A version that is no number: as if none had been asked for.
            del asked["HTTP_ACCEPT"]
        body = b"".join(render(asked, lambda *begun: started.append(begun)))
        ((status, headers),) = started
        return status, headers, body

    return page


def _whether(holds: bool, what: str) -> _Answer:
    if holds:
        return _text(HTTPStatus.OK, what)
    return _text(HTTPStatus.SERVICE_UNAVAILABLE, f"not {what}")


def _text(status: HTTPStatus, text: str) -> _Answer:
    headers = [("Content-Type", "text/plain; charset=utf-8")]
    return f"{status.value} {status.phrase}", headers, f"{text}\n".encode()
