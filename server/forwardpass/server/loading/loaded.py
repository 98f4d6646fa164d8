"""A version in memory: all that answering a call with it takes."""

import threading
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from forwardpass.artefact import space_id
from forwardpass.server.loading.batch_curve import Batching, CurvePoint
from forwardpass.server.loading.config import ModelConfig
from forwardpass.server.loading.golden import GoldenResult
from forwardpass.server.loading.independence import Independence
from forwardpass.server.loading.vocabulary import Vocabulary
from forwardpass.server.metrics.counters import ModelCounters
from forwardpass.server.onnx.session import Session
from forwardpass.server.onnx.signature import Signature
from forwardpass.server.scheduling.executor import ThreadExecutor
from forwardpass.server.scheduling.inline_executor import InlineExecutor
from forwardpass.v1 import model_card_pb2
from forwardpass.wire import Preparation, from_preparation


class Leases:
    """Counts the calls that use a version, so that it is released only after the last of them.

    A lease is an entry of a deque, which threads may add and take without a lock: one costs more
    than all else that is done here. Who enters adds first and looks second whether the version is
    still open, and who closes it does so first and looks second for leases: one sees the other.
    """

    __slots__ = ("_leases", "_none", "_open")

    def __init__(self) -> None:
        self._leases: deque[None] = deque()
        self._none = threading.Condition()
        self._open = True

    def enter(self) -> bool:
        """Takes a lease, which `leave` must give back; False once the version is on its way out."""
        self._leases.append(None)
        if self._open:
            return True
        self.leave()
        return False

    def leave(self) -> None:
        """Gives a lease back."""
        self._leases.pop()
        if not (self._open or self._leases):
            with self._none:
                self._none.notify_all()

    def close(self) -> None:
        """Gives no more leases, and waits until the last one is back."""
        self._open = False
        with self._none:
            self._none.wait_for(lambda: not self._leases)


@dataclass(frozen=True)
class Loaded:
    """What a version has once it is ready.

    Attributes:
        name: The model's name.
        number: The version's number.
        counters: What is counted for the version.
        digest: SHA-256 of the ONNX file and of its weights.
        card: What its trainer wrote; None for an ONNX file of other origin.
        config: What its config.pbtxt decides.
        signature: Inputs and outputs.
        output_labels: By output, the name of each class: the card's, else the configuration's.
        session: The graph in ONNX Runtime.
        golden: How it answered its golden inputs; None where it came with none.
        curve: How long runs take here, by their number of rows.
        batching: How its requests are gathered.
        independence: What is known of its rows.
        executor: What runs its jobs.
        seconds: How long loading took.
        vocabulary: The characters of a text generator; None for any other model.
        cached: Whether it took over what an earlier load had found out.
        leases: Who uses it.
    """

    name: str
    number: int
    counters: ModelCounters
    digest: str
    card: model_card_pb2.ModelCard | None
    config: ModelConfig
    signature: Signature
    output_labels: Mapping[str, Sequence[str]]
    session: Session
    golden: GoldenResult | None
    curve: Sequence[CurvePoint]
    batching: Batching
    independence: Independence
    executor: ThreadExecutor | InlineExecutor
    seconds: float
    vocabulary: Vocabulary | None = None
    cached: bool = False
    leases: Leases = field(default_factory=Leases)

    @property
    def runs_inline(self) -> bool:
        """Whether the transport's own thread runs it."""
        return isinstance(self.executor, InlineExecutor) and self.executor.is_inline

    @property
    def labels(self) -> Sequence[str]:
        """The name of each class; none where the model has no card or no classes."""
        return self.card.labels if self.card is not None else ()

    @cached_property
    def preparation(self) -> Preparation | None:
        """What the card says is done to images; None where the model takes none."""
        if self.card is None or not self.card.HasField("image"):
            return None
        return from_preparation(self.card.image.preparation)

    @cached_property
    def embedding_spaces(self) -> dict[str, str]:
        """The space id of each embedding output, by the output's name."""
        specs = self.signature.outputs_of(model_card_pb2.TENSOR_ROLE_EMBEDDING)
        return {spec.name: space_id(self.digest, spec.name) for spec in specs}

    def space_of(self, output: str, preparation: Preparation | None) -> str:
        """Returns the space id of an embedding output.

        Args:
            output: Its name.
            preparation: How images were prepared; None where they were as the card says.
        """
        if preparation is None:
            return self.embedding_spaces[output]
        return space_id(self.digest, output, preparation)

    @property
    def calls(self) -> list[str]:
        """The calls that it answers."""
        latent = self.signature.input_of(model_card_pb2.TENSOR_ROLE_LATENT)
        generates = latent is not None or self.vocabulary is not None
        return [
            "Predict",
            *(["Embed"] if self.embedding_spaces else []),
            *(["Generate"] if generates else []),
        ]

    def close(self) -> None:
        """Waits for the last call, answers what was submitted, and ends the executor."""
        self.leases.close()
        self.executor.close()
        self.session.close()
