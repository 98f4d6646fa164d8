"""A stream that names a version, so that the server keeps it while another takes its place."""

import time
from collections.abc import Iterator
from contextlib import suppress
from queue import SimpleQueue

from forwardpass.client.client import Client
from forwardpass.client.errors import ForwardpassError, Unavailable
from forwardpass.client.jobs.embedder import Space
from forwardpass.client.results import Embeddings
from forwardpass.wire import Array

# Seconds after which another takes its place: below what a server gives the streams of a connection
# that has grown too old.
_SECONDS = 15.0


class NamingStream:
    """Embeds batches, one at a time, over a stream.

    Args:
        client: Calls the server.
        space: The model and its output.
        version: The version to keep.
        name: The model's input.
    """

    def __init__(self, client: Client, space: Space, version: int, name: str) -> None:
        self.version = version
        self._until = time.monotonic() + _SECONDS
        self._batches: SimpleQueue[Array | None] = SimpleQueue()
        self._answers = client.embed_stream(
            space.model,
            self._take(name),
            output=space.output,
            alone=True,
            version=version,
            # Begun while it is not old, a batch has all of its time.
            timeout=_SECONDS + client.timeout,
        )

    @property
    def is_old(self) -> bool:
        """Whether another should take its place before the server ends it."""
        return time.monotonic() >= self._until

    def embed(self, rows: Array) -> Embeddings:
        """Returns the vectors of a batch.

        Raises:
            ForwardpassError: As `Client.embed_stream`.
        """
        self._batches.put(rows)
        answer = next(self._answers, None)
        if answer is None:
            raise Unavailable("the server has ended the stream")
        return answer

    def close(self) -> None:
        """Lets the version go, once the server has seen the end."""
        self._batches.put(None)
        with suppress(ForwardpassError):
            next(self._answers, None)

    def _take(self, name: str) -> Iterator[dict[str, Array]]:
        while (rows := self._batches.get()) is not None:
            yield {name: rows}
