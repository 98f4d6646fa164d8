"""A published model that embeds pictures, as what comes before a head that is trained on it.

pictures ─ apply, by ONNX Runtime ──────────────► embeddings ─► the head, in torch ─► golden outputs
         └ join: its graph up to the embedding ─► embeddings ─► the head's graph   ─► ONNX Runtime's
"""

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from forwardpass.artefact import CARD_KEY, MODEL_FILE, card_from_json
from forwardpass.client.card import ImageInput
from forwardpass.client.errors import ForwardpassError
from forwardpass.client.jobs.embedder import rows_a_batch
from forwardpass.client.jobs.errors import JobError
from forwardpass.client.local import LocalEmbedder
from forwardpass.trainer.errors import SettingError
from forwardpass.trainer.export.parity import open_session
from forwardpass.trainer.export.surgery import rename_input
from forwardpass.wire import Array

# What the head takes.
FEATURES = "features"
IMAGE = "image"
_PREFIX = "embedder/"


class Embedder:
    """A published model in this process, on the CPU.

    Attributes:
        folder: Of its version.
        digest: SHA-256 of its ONNX file, in hexadecimal.
        card: What it is.
        image: The pictures that it takes, and how they are prepared.
        width: Numbers of an embedding.
        parameters: Those that the embedding depends on, and not what came behind it.
        threads: How many callers of `embed` keep all cores busy.
        rows: How many pictures to give it at once, at most.

    Args:
        folder: Of a version.

    Raises:
        SettingError: It embeds no pictures, or takes one at a time.
    """

    def __init__(self, folder: Path) -> None:
        try:
            self._local = LocalEmbedder(folder)
        except (JobError, ForwardpassError) as error:
            raise SettingError(f"features={folder.parent.name}: {error}") from error
        subject = self._local.subject
        model = onnx.load(folder / MODEL_FILE)
        self.card = card_from_json({p.key: p.value for p in model.metadata_props}[CARD_KEY])
        if subject.image is None or len(subject.inputs) != 1 or not self.card.signature.batched:
            raise SettingError(
                f"features={folder.parent.name}: that model does not take pictures alone, several "
                "at once; name one that embeds pictures, such as resnet50-imagenet"
            )
        self.folder = folder
        self.digest = subject.space.digest
        self.image: ImageInput = subject.image
        self.width = subject.space.dimension
        self.threads = self._local.threads
        pixels = self.image.height * self.image.width * self.image.channels
        self.rows = rows_a_batch(subject, pixels)
        self._output = subject.space.output
        before, after = (_parameters(graph) for graph in (model.graph, self._graph().graph))
        self.parameters = self.card.parameters - (before - after)

    def embed(self, images: Array) -> NDArray[np.float32]:
        """Returns the embeddings (n, width) of pictures, uint8 (n, height, width, channels)."""
        return self._local.embed(self.image.input, images)

    def apply(self, sample: Mapping[str, Array]) -> dict[str, Array]:
        """Returns what the head takes of pictures: each operator runs as the file states it."""
        data = (self.folder / MODEL_FILE).read_bytes()
        session = open_session(data, optimize=False)
        (features,) = session.run([self._output], {self.image.input: sample[IMAGE]})
        return {FEATURES: features}

    def join(self, head: onnx.ModelProto, _sample: Mapping[str, Array]) -> onnx.ModelProto:
        """Returns the graph from pictures to the head's outputs, checked by onnx.

        Args:
            head: Takes the embedding; as `export_graph` gives it.
            _sample: Of pictures.
        """
        model = self._graph()
        (opset,) = (known.version for known in model.opset_import if not known.domain)
        head = onnx.version_converter.convert_version(head, opset)
        head.ir_version = model.ir_version
        joined = onnx.compose.merge_models(model, head, io_map=[(_PREFIX + self._output, FEATURES)])
        rename_input(joined.graph, _PREFIX + self.image.input, IMAGE)
        onnx.checker.check_model(joined, full_check=True)
        return joined

    def _graph(self) -> onnx.ModelProto:
        """Returns the model's graph up to the embedding, under names that no head has."""
        model = onnx.load(self.folder / MODEL_FILE)
        names = [self.image.input], [self._output]
        model = onnx.utils.Extractor(model).extract_model(*names)
        return onnx.compose.add_prefix(model, _PREFIX)


def _parameters(graph: onnx.GraphProto) -> int:
    return sum(math.prod(tensor.dims) for tensor in graph.initializer)
