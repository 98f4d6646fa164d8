"""A server that turns rows into vectors, and patience with it."""

import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from forwardpass.client.client import Client
from forwardpass.client.errors import (
    Cancelled,
    ModelFailed,
    ModelNotFound,
    Overloaded,
    TimedOut,
    Unavailable,
    WrongTask,
)
from forwardpass.client.jobs.embedder import BATCH_ROWS, MAX_BATCH_BYTES, Space, Subject, cores
from forwardpass.client.jobs.errors import JobError
from forwardpass.client.jobs.naming_stream import NamingStream
from forwardpass.client.models import Model, ModelState, Version, check_loaded
from forwardpass.client.polarity import known_ground
from forwardpass.client.results import Embeddings
from forwardpass.client.settings import DEFAULT_MESSAGE_BYTES, Settings
from forwardpass.wire import Array

Result = TypeVar("Result")
# What a message has beside its rows, at most.
_FRAMING = 1 << 14
# Each thread decodes the rows of a batch and then waits for its answer: one more than there are
# cores keeps all of them busy while a server works.
_LEAST_THREADS = 3
_LOST = (Unavailable, Overloaded, TimedOut, Cancelled)
# Seconds before another try: doubled each time, and random, so that jobs do not come together.
_FIRST_WAIT, _LONGEST_WAIT = 0.1, 5.0
# Seconds that one call is tried again in while there is no connection.
_SHORT = 0.5


class Patience:
    """Makes a call again until it is answered, or a while has passed.

    Args:
        seconds: How long a call may fail before the job gives up.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._ended = threading.Event()

    def end(self) -> None:
        """Has what waits give up."""
        self._ended.set()

    def call(self, make: Callable[[], Result]) -> Result:
        """Returns what a call gives.

        Raises:
            ForwardpassError: Its last error; at once where another try could not help.
        """
        began = time.monotonic()
        wait = _FIRST_WAIT
        while True:
            try:
                return make()
            except _LOST as error:
                if time.monotonic() - began >= self._seconds:
                    raise
                # As long as the server says, at least.
                least = error.retry_after or 0.0
            pause = max(least, wait) * random.uniform(0.5, 1.5)  # noqa: S311  # no secret
            if self._ended.wait(pause):
                raise Cancelled("the job was ended")
            wait = min(_LONGEST_WAIT, 2 * wait)


class ServerEmbedder:
    """Has a server embed rows.

    Attributes:
        subject: The model.
        threads: As in `Embedder`.

    Args:
        client: Calls the server; closed with this.
        model: The model's name.
        version: Which version; the newest where None.
        patience: For a server that is not there, or has no time.
        space: Whose vectors are wanted, whatever the version; the model's first where None.
        threads: As in `OpenServer`.

    Raises:
        WrongTask: The model gives no vectors.
        ForwardpassError: It is not served.
    """

    def __init__(
        self,
        client: Client,
        model: str,
        version: Version,
        patience: Patience,
        *,
        space: Space | None = None,
        threads: int | None = None,
    ) -> None:
        self.threads = threads or max(_LEAST_THREADS, cores() + 1)
        self._client = client
        self._patience = patience
        self._lock = threading.Lock()
        # One batch at a time goes over it.
        self._naming = threading.Lock()
        self._stream: NamingStream | None = None
        known = (
            patience.call(lambda: _describe(client, model, version))
            if space is None
            else self._find(space)
        )
        self.subject = subject_of(known, space.output if space else None)
        self._version = known.summary.version

    def embed(self, name: str, rows: Array) -> NDArray[np.float32]:
        """See `Embedder.embed`."""
        space = self.subject.space
        while True:
            version = self._version
            try:
                answer = self._patience.call(partial(self._call, version, name, rows))
            except (ModelNotFound, ModelFailed):
                self._take_over(version)
                continue
            if answer.space_id == space.space_id:
                return answer.vectors
            self._take_over(version)

    def close(self) -> None:
        """See `Embedder.close`."""
        self._patience.end()
        # Where a batch is on its way, nobody is left to wait for it.
        if self._naming.acquire(blocking=False):
            if self._stream is not None:
                self._stream.close()
            self._naming.release()
        self._client.close()

    def _call(self, version: int, name: str, rows: Array) -> Embeddings:
        """Embeds a batch, over the stream that keeps the version where that is free."""
        if self._naming.acquire(blocking=False):
            try:
                return self._call_naming(version, name, rows)
            finally:
                self._naming.release()
        space = self.subject.space
        return self._client.embed(
            space.model, {name: rows}, output=space.output, alone=True, version=version
        )

    def _call_naming(self, version: int, name: str, rows: Array) -> Embeddings:
        """Embeds a batch over a stream; a new one names the version before the old one ends."""
        before = self._stream
        if before is not None and before.version == version and not before.is_old:
            try:
                return before.embed(rows)
            except BaseException:
                before.close()
                self._stream = None
                raise
        stream = NamingStream(self._client, self.subject.space, version, name)
        try:
            answer = stream.embed(rows)
        except BaseException:
            stream.close()
            raise
        self._stream = stream
        if before is not None:
            before.close()
        return answer

    def _take_over(self, gone: int) -> None:
        """Goes on with another version that gives the same vectors."""
        with self._lock:
            if self._version == gone:
                self._version = self._find(self.subject.space).summary.version

    def _find(self, space: Space) -> Model:
        """Returns a version that gives vectors of a space.

        Raises:
            JobError: There is none.
        """
        call, client = self._patience.call, self._client
        summaries = call(client.models)
        versions = [
            summary
            for summary in summaries
            if summary.name == space.model and summary.state is ModelState.READY
        ]
        for summary in versions:
            try:
                known = call(lambda version=summary.version: client.model(space.model, version))  # type: ignore[misc]
            except ModelNotFound:
                continue
            if any(found.space_id == space.model_space_id for found in known.embedding_spaces):
                return known
        others = ", ".join(str(summary.version) for summary in versions) or "none"
        raise JobError(
            f"no version of {space.model} gives vectors of space {space.space_id} any more, with "
            f"which this job began as version {space.version} (versions ready: {others}). Serve "
            "that version again and repeat the command, or begin another job in another folder"
        )


@dataclass(frozen=True, slots=True)
class OpenServer:
    """Connects to a server, in whatever process.

    Attributes:
        settings: The client's.
        model: The model's name.
        version: Which version a new job takes.
        wait: Seconds that the server may be away.
        threads: How many calls at a time; as many as this machine decodes where None.
    """

    settings: Settings
    model: str
    version: Version
    wait: float
    threads: int | None = None

    def __call__(self, space: Space | None) -> ServerEmbedder:
        """See `OpenEmbedder`."""
        # Whose patience is short: the job's own is what counts.
        client = Client.with_settings(replace(self.settings, patience=_SHORT))
        try:
            patience = Patience(self.wait)
            return ServerEmbedder(
                client,
                self.model,
                self.version,
                patience,
                space=space,
                threads=self.threads,
            )
        except BaseException:
            client.close()
            raise


def subject_of(known: Model, output: str | None) -> Subject:
    """Returns what a job needs to know of a model that is served."""
    summary = known.summary
    spaces = [space for space in known.embedding_spaces if output in (None, space.output)]
    if not spaces:
        raise WrongTask(f"{summary.name} has no embedding output, so it gives no vectors")
    chosen = spaces[0]
    signature = known.signature
    image = known.card.image if known.card else None
    return Subject(
        Space(
            summary.name,
            summary.version,
            known.digest,
            chosen.output,
            chosen.space_id,
            chosen.dimension,
        ),
        signature.inputs,
        image,
        known_ground(known.card),
        signature.max_rows or BATCH_ROWS if signature.batched else 1,
        min(MAX_BATCH_BYTES, (known.max_message_bytes or DEFAULT_MESSAGE_BYTES) - _FRAMING),
    )


def _describe(client: Client, model: str, version: Version) -> Model:
    known = client.model(model, version)
    check_loaded(known)
    return known
