"""One version of a model: from a folder on disk to something that answers."""

import dataclasses
import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import structlog

from forwardpass.artefact import (
    CARD_KEY,
    GOLDEN_FILE,
    MANIFEST_FILE,
    MODEL_FILE,
    CardError,
    Golden,
    ManifestError,
    card_from_json,
    load_golden,
    space_id,
    verify_manifest,
)
from forwardpass.server.metrics import ModelCounters
from forwardpass.server.runtime.curve import (
    DEFAULT_MAX_ROWS,
    Batching,
    CurvePoint,
    decide,
    example_inputs,
    measure_curve,
    rows_are_independent,
)
from forwardpass.server.runtime.golden import GoldenError, GoldenResult, replay
from forwardpass.server.runtime.session import Session, SessionError
from forwardpass.server.runtime.signature import (
    Signature,
    SignatureError,
    card_signature,
    graph_signature,
)
from forwardpass.server.scheduling.queue import Gathering
from forwardpass.server.scheduling.worker import Worker
from forwardpass.v1 import model_card_pb2, model_service_pb2

State = model_service_pb2.ModelState
# The most requests that wait for one version.
MAX_QUEUED = 1024
_log = structlog.get_logger()


class LoadError(Exception):
    """A version that will not serve; the message says why."""


_EXPECTED = (LoadError, ManifestError, SessionError, CardError, SignatureError, GoldenError)


@dataclass(frozen=True)
class Loaded:
    """What a version has once it is ready.

    Attributes:
        name: The model's name.
        number: The version's number.
        counters: What is counted for the version.
        digest: SHA-256 of the ONNX file.
        card: What its trainer wrote; None for an ONNX file of other origin.
        signature: Inputs and outputs.
        session: The graph in ONNX Runtime.
        golden: How it answered its golden inputs; None where it came with none.
        curve: How long runs of so many rows take here.
        batching: How its requests are gathered.
        worker: What runs its jobs.
        seconds: How long loading took.
    """

    name: str
    number: int
    counters: ModelCounters
    digest: str
    card: model_card_pb2.ModelCard | None
    signature: Signature
    session: Session
    golden: GoldenResult | None
    curve: Sequence[CurvePoint]
    batching: Batching
    worker: Worker
    seconds: float

    @property
    def labels(self) -> Sequence[str]:
        """The name of each class; none where the model has no card or no classes."""
        return self.card.labels if self.card is not None else ()

    @cached_property
    def embedding_spaces(self) -> dict[str, str]:
        """The space id of each embedding output, by the output's name."""
        specs = self.signature.outputs_of(model_card_pb2.TENSOR_ROLE_EMBEDDING)
        return {spec.name: space_id(self.digest, spec.name) for spec in specs}

    @property
    def calls(self) -> list[str]:
        """The calls that it answers."""
        generates = self.signature.input_of(model_card_pb2.TENSOR_ROLE_LATENT) is not None
        return [
            "Predict",
            *(["Embed"] if self.embedding_spaces else []),
            *(["Generate"] if generates else []),
        ]


class Version:
    """A numbered folder of a model, and the state it is in.

    Args:
        name: The model's name.
        number: The version's number.
        folder: Where its files lie.
        changed: Called after each change of state.
    """

    def __init__(self, name: str, number: int, folder: Path, changed: Callable[[], None]) -> None:
        self.name = name
        self.number = number
        self.folder = folder
        self.counters = ModelCounters()
        self.state: model_service_pb2.ModelState.ValueType = State.MODEL_STATE_DISCOVERED
        self.state_reason = ""
        self.loaded: Loaded | None = None
        self._changed = changed

    @property
    def ready(self) -> bool:
        """Whether it answers."""
        return self.state == State.MODEL_STATE_READY

    def load(self, *, threads: int, manifest_required: bool) -> None:
        """Takes the version from its folder to ready, or to failed with the reason.

        Args:
            threads: Threads for one run of the model.
            manifest_required: Whether a folder without a manifest is refused.
        """
        started = time.perf_counter()
        try:
            self._move(State.MODEL_STATE_VERIFYING)
            model, digest = self._read(manifest_required=manifest_required)
            self._move(State.MODEL_STATE_LOADING)
            session = Session(model, threads)
            card, signature = self._describe(session)
            self._move(State.MODEL_STATE_WARMING)
            golden = self._read_golden(card, signature)
            replayed = (
                card
                and golden
                and replay(session, golden, card.tolerance, batched=signature.batched)
            )
            if card is None and rows_are_independent(session, signature):
                signature = dataclasses.replace(signature, batched=True)
            curve, batching = _measure(session, signature, golden)
        except _EXPECTED as error:
            self._move(State.MODEL_STATE_FAILED, str(error))
        except OSError as error:
            self._move(State.MODEL_STATE_FAILED, f"cannot read it: {error.strerror or error}")
        except Exception as error:  # noqa: BLE001  # one bad model must not stop the others
            _log.exception("load_failed", model=self.name, version=self.number)
            self._move(State.MODEL_STATE_FAILED, f"unexpected {type(error).__name__}: {error}")
        else:
            worker = Worker(
                f"{self.name}-{self.number}",
                session.run,
                Gathering(batching.max_rows, MAX_QUEUED),
                self.counters,
            )
            seconds = time.perf_counter() - started
            self.loaded = Loaded(
                self.name,
                self.number,
                self.counters,
                digest,
                card,
                signature,
                session,
                replayed or None,
                curve,
                batching,
                worker,
                seconds,
            )
            self._move(State.MODEL_STATE_READY)

    def close(self) -> None:
        """Answers what was submitted, and lets go of the model."""
        if self.loaded is not None:
            self._move(State.MODEL_STATE_DRAINING)
            self.loaded.worker.close()
            self.loaded = None
            self._move(State.MODEL_STATE_UNLOADED)

    def _read(self, *, manifest_required: bool) -> tuple[bytes, str]:
        """Returns the bytes of the model and their digest, the very bytes that were verified."""
        path = self.folder / MODEL_FILE
        expected = None
        if (self.folder / MANIFEST_FILE).is_file():
            manifest = verify_manifest(self.folder)
            if MODEL_FILE not in manifest.files:
                raise LoadError(f"{MANIFEST_FILE} lists no {MODEL_FILE}")
            expected = manifest.files[MODEL_FILE].sha256
        elif manifest_required:
            raise LoadError(
                f"it has no {MANIFEST_FILE}, which its siblings have: "
                "it is still being copied, or was not published by the trainer"
            )
        if not path.is_file():
            raise LoadError(f"it has no {MODEL_FILE}")
        model = path.read_bytes()
        digest = hashlib.sha256(model).hexdigest()
        if expected is not None and digest != expected:
            raise LoadError(f"{MODEL_FILE} changed while it was being read")
        return model, digest

    def _describe(self, session: Session) -> tuple[model_card_pb2.ModelCard | None, Signature]:
        signature = graph_signature(session.inputs, session.outputs)
        text = session.metadata.get(CARD_KEY)
        if text is None:
            return None, signature
        card = card_from_json(text)
        return card, card_signature(signature, card)

    def _read_golden(
        self, card: model_card_pb2.ModelCard | None, signature: Signature
    ) -> Golden | None:
        path = self.folder / GOLDEN_FILE
        if not path.is_file():
            return None
        if card is None:
            raise LoadError(f"it has a {GOLDEN_FILE}, but no card to say how exact it must be")
        try:
            golden = load_golden(path)
            signature.check(golden.inputs)
        except Exception as error:
            raise LoadError(f"{GOLDEN_FILE} does not fit the model: {error}") from error
        return golden

    def _move(self, state: model_service_pb2.ModelState.ValueType, reason: str = "") -> None:
        self.state_reason = reason
        self.state = state
        self._changed()


def _measure(
    session: Session, signature: Signature, golden: Golden | None
) -> tuple[list[CurvePoint], Batching]:
    if not signature.batched:
        reason = "the rows of the model are not known to be independent"
        return [], Batching(enabled=False, max_rows=1, reason=reason)
    most = min(DEFAULT_MAX_ROWS, signature.max_rows or DEFAULT_MAX_ROWS)
    curve = measure_curve(session, example_inputs(signature, golden), most)
    return curve, decide(curve, most)
