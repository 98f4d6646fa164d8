"""What a server says of its models, in plain Python."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeAlias

from forwardpass.client import shown
from forwardpass.client.card import (
    Card,
    RowIndependence,
    TensorSpec,
    to_card,
    to_row_independence,
    to_tensor_spec,
)
from forwardpass.client.errors import ModelFailed, Unavailable
from forwardpass.v1 import model_service_pb2 as pb

# A version's number, an operator's label for one such as "stable", or None for the newest that is
# ready.
Version: TypeAlias = int | str | None


class ModelState(StrEnum):
    """Where a version stands: versions move down this list."""

    UNSPECIFIED = "unspecified"
    DISCOVERED = "discovered"
    VERIFYING = "verifying"
    LOADING = "loading"
    WARMING = "warming"
    READY = "ready"
    DRAINING = "draining"
    UNLOADED = "unloaded"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class ModelSummary:
    """A version in one line.

    Attributes:
        name: The model's name.
        version: The version's number.
        state: Where it stands.
        state_reason: Why it stands there, in words; empty where nothing is the matter.
        version_labels: The labels that point to it, such as "stable".
        description: One sentence from its card; empty where it has none.
        calls: The calls that it answers: "Predict", "Embed", "Generate".
    """

    name: str
    version: int
    state: ModelState
    state_reason: str
    version_labels: tuple[str, ...]
    description: str
    calls: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Signature:
    """What goes in and what comes out.

    Attributes:
        inputs: In the graph's order. All are required.
        outputs: In the graph's order.
        batched: Whether axis 0 of every input and output counts independent rows.
        max_rows: The most rows a request may have; 0 where the model states no limit.
        states: Pairs of an input and the output that gives its next value, of a step model.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    batched: bool
    max_rows: int
    states: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class GoldenResult:
    """What replaying torch's own examples gave when this server loaded the model.

    Attributes:
        rows: How many examples; 0 where the model came with none.
        passed: Whether every output agreed within the card's tolerance.
        max_absolute_error: The greatest difference from the golden answers.
    """

    rows: int
    passed: bool
    max_absolute_error: float


@dataclass(frozen=True, slots=True)
class Batching:
    """How the server gathers requests into one run.

    Attributes:
        enabled: Whether it does.
        max_rows: The most rows that it gathers.
        reason: Why it is on or off, in words.
    """

    enabled: bool
    max_rows: int
    reason: str


@dataclass(frozen=True, slots=True)
class EmbeddingSpace:
    """The identity of the vectors that one output gives: only vectors of one space compare.

    Attributes:
        output: The output's name.
        space_id: 32 hexadecimal digits, made of the model's digest and the output's name.
        dimension: The length of a vector.
    """

    output: str
    space_id: str
    dimension: int


@dataclass(frozen=True, slots=True)
class Model:
    """Everything about one version.

    Attributes:
        summary: The version in one line.
        digest: SHA-256 of the ONNX file, in hexadecimal.
        card: What its trainer wrote; None for an ONNX file of other origin.
        signature: What goes in and what comes out.
        golden: How it answered torch's examples on this server.
        batch_curve: Seconds that one run takes on this server, by rows; empty where not measured.
        batching: How its requests are gathered.
        providers: The ONNX Runtime execution providers that it runs on, in order.
        embedding_spaces: The spaces of its embedding outputs; `embed` uses the first.
        load_seconds: How long it took from verifying to ready.
        row_independence: As this server measured it; None where rows are not known to be
            independent, or nothing could be measured.
        class_labels: The name of each class that `top_k` ranks.
        max_message_bytes: The longest message that its server takes; 0 where not told.
    """

    summary: ModelSummary
    digest: str
    card: Card | None
    signature: Signature
    golden: GoldenResult
    batch_curve: Mapping[int, float]
    batching: Batching
    providers: tuple[str, ...]
    embedding_spaces: tuple[EmbeddingSpace, ...]
    load_seconds: float
    row_independence: RowIndependence | None
    class_labels: tuple[str, ...]
    max_message_bytes: int

    def __repr__(self) -> str:
        summary, signature = self.summary, self.signature
        sides = [
            ", ".join(f"{spec.name}: {spec.dtype} {spec.shape}" for spec in specs)
            for specs in (signature.inputs, signature.outputs)
        ]
        name = f"{summary.name!r} version {summary.version}, {summary.state}"
        return f"Model({name}; {' -> '.join(sides)})"

    def _repr_html_(self) -> str:
        """For notebooks: what it takes, gives and is."""
        title = f"{self.summary.name} version {self.summary.version}"
        return shown.facts(title, self._facts())

    def _facts(self) -> Iterator[tuple[str, str]]:
        yield "state", f"{self.summary.state} {self.summary.state_reason}"
        yield "calls", ", ".join(self.summary.calls)
        for side, specs in (("in", self.signature.inputs), ("out", self.signature.outputs)):
            for spec in specs:
                yield f"{side}: {spec.name}", f"{spec.dtype} {spec.shape}, {spec.role}"
        if self.card is not None:
            yield "description", self.card.description
            for name, value in self.card.metrics.items():
                yield name, f"{value:.4g}"
            yield "parameters", f"{self.card.parameters:,}"


def check_loaded(model: Model) -> None:
    """Raises where nothing can be known of the model's inputs and outputs, since it is not loaded.

    Raises:
        ModelFailed: Its version was refused.
        Unavailable: It is on its way, or was unloaded.
    """
    if model.signature.inputs:
        return
    summary = model.summary
    kind = ModelFailed if summary.state is ModelState.FAILED else Unavailable
    raise kind(
        f"{summary.name} version {summary.version} is not loaded, it is {summary.state}: "
        f"{summary.state_reason or 'try again when it is ready'}"
    )


def to_summaries(messages: Iterable[pb.ModelSummary]) -> list[ModelSummary]:
    return [_summary(message) for message in messages]


def to_model(response: pb.GetModelResponse) -> Model:
    message = response.model
    signature = message.signature
    return Model(
        summary=_summary(message.summary),
        digest=message.digest,
        card=to_card(message.card) if message.HasField("card") else None,
        signature=Signature(
            inputs=tuple(to_tensor_spec(spec) for spec in signature.inputs),
            outputs=tuple(to_tensor_spec(spec) for spec in signature.outputs),
            batched=signature.batched,
            max_rows=signature.max_rows,
            states=tuple((state.input, state.output) for state in signature.states),
        ),
        golden=GoldenResult(
            message.golden.rows, message.golden.passed, message.golden.max_absolute_error
        ),
        batch_curve={
            point.rows: point.duration.ToNanoseconds() / 1e9 for point in message.batch_curve
        },
        batching=Batching(
            message.batching.enabled, message.batching.max_rows, message.batching.reason
        ),
        providers=tuple(message.providers),
        embedding_spaces=tuple(
            EmbeddingSpace(space.output, space.space_id, space.dimension)
            for space in message.embedding_spaces
        ),
        load_seconds=message.load_duration.ToNanoseconds() / 1e9,
        row_independence=to_row_independence(message),
        class_labels=tuple(message.class_labels),
        max_message_bytes=response.max_message_bytes,
    )


def _summary(message: pb.ModelSummary) -> ModelSummary:
    return ModelSummary(
        name=message.model.name,
        version=message.model.version,
        state=_state(message.state),
        state_reason=message.state_reason,
        version_labels=tuple(message.version_labels),
        description=message.description,
        calls=tuple(message.calls),
    )


def _state(value: "pb.ModelState.ValueType") -> ModelState:
    if value not in pb.ModelState.values():
        # A later server may know states that this client does not.
        return ModelState.UNSPECIFIED
    return ModelState(pb.ModelState.Name(value).removeprefix("MODEL_STATE_").lower())
