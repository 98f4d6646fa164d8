"""A web service that names what is in a picture; for gunicorn, or any other WSGI server.

MODEL=mnist-cnn gunicorn --chdir examples/clients/python --workers 4 --preload wsgi:application
"""

import json
import os
from collections.abc import Iterable
from typing import TYPE_CHECKING

from forwardpass.client import Client, ForwardpassError, InvalidInput

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIEnvironment

_MOST_BYTES = 10 << 20
# Made once, with --preload before the workers are forked: each connects at its first call.
client = Client(os.environ.get("FORWARDPASS_SERVER", "127.0.0.1:8001"), timeout=10)


def application(environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
    """Answers a POST of a JPEG or PNG file with its likeliest classes."""
    size = min(int(environ.get("CONTENT_LENGTH") or 0), _MOST_BYTES)
    picture = environ["wsgi.input"].read(size)
    told: dict[str, object]
    try:
        answer = client.predict(os.environ["MODEL"], images=picture, top_k=3)
    except InvalidInput as error:
        status, told = "400 Bad Request", {"error": error.message}
    except ForwardpassError as error:
        status, told = "503 Service Unavailable", {"error": error.message}
    else:
        scores = {score.label: score.probability for score in answer.classes[0]}
        status, told = "200 OK", {"process": os.getpid(), "classes": scores}
    start_response(status, [("Content-Type", "application/json")])
    return [json.dumps(told).encode()]
