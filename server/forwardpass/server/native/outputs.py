"""What a model gives, as it is sent: classes, pictures and vectors."""

from collections.abc import Iterable, Sequence

import numpy as np

from forwardpass.pixels import encode_png
from forwardpass.server.errors import Abandoned, InvalidInput
from forwardpass.server.loading.loaded import Loaded
from forwardpass.server.onnx.signature import TensorSpec
from forwardpass.server.transport.call import Call
from forwardpass.v1 import inference_service_pb2, model_card_pb2
from forwardpass.wire import Array


def class_output(loaded: Loaded) -> TensorSpec | None:
    """Returns the output that classes are read from: the probabilities, else the logits.

    Where no card tells which they are, the first that the configuration has labels for.
    """
    signature = loaded.signature
    for role in (model_card_pb2.TENSOR_ROLE_PROBABILITIES, model_card_pb2.TENSOR_ROLE_LOGITS):
        if specs := signature.outputs_of(role):
            return specs[0]
    labelled = (spec for name, spec in signature.outputs.items() if name in loaded.output_labels)
    return next((spec for spec in labelled if signature.batched and _is_table(spec)), None)


def class_labels(loaded: Loaded) -> Sequence[str]:
    """Returns the name of each class that `top_k` ranks; none where there are none."""
    spec = class_output(loaded)
    return () if spec is None else loaded.output_labels.get(spec.name, ())


def _is_table(spec: TensorSpec) -> bool:
    return len(spec.shape) == 2 and spec.type.dtype.kind in "fiu"


def check_top_k(loaded: Loaded, top_k: int) -> TensorSpec | None:
    """Returns the output to rank for `top_k` classes a row; None where none is asked for.

    Raises:
        InvalidInput: The model has no classes, or fewer than that.
    """
    if not top_k:
        return None
    spec, labels = class_output(loaded), class_labels(loaded)
    if spec is None or not labels:
        raise InvalidInput("top_k is given, but the model has no classes", field="top_k")
    if top_k > len(labels):
        raise InvalidInput(
            f"top_k is {top_k}, but the model has {len(labels)} classes",
            field="top_k",
            expected=len(labels),
            got=top_k,
        )
    return spec


def classify(
    scores: Array, spec: TensorSpec, labels: Sequence[str], top_k: int
) -> list[inference_service_pb2.Classification]:
    """Returns the `top_k` likeliest classes of each row; equal ones by index.

    Args:
        scores: (rows, classes): probabilities or logits, as `spec.role` says, or any numbers.
        spec: The output that they are.
        labels: The name of each class; those beyond have none.
        top_k: How many, at most the number of labels.
    """
    if spec.role == model_card_pb2.TENSOR_ROLE_LOGITS:
        exponents = np.exp(scores - scores.max(axis=1, keepdims=True))
        scores = exponents / exponents.sum(axis=1, keepdims=True)
    scores = scores.astype(np.float64)
    ranking = np.argsort(-scores, axis=1, kind="stable")[:, :top_k]
    return [
        inference_service_pb2.Classification(
            classes=[
                inference_service_pb2.ClassScore(
                    index=index,
                    label=labels[index] if index < len(labels) else "",
                    probability=row[index],
                )
                for index in order.tolist()
            ]
        )
        for row, order in zip(scores, ranking, strict=True)
    ]


def pictures(images: Array, call: Call) -> list[bytes]:
    """Returns a PNG of each image, as long as the caller is there.

    Args:
        images: uint8 (rows, height, width, channels).
        call: Who asks.

    Raises:
        Abandoned: The call has ended.
    """
    made = []
    for image in images:
        if call.has_ended:
            raise Abandoned
        made.append(encode_png(image))
    return made


def normalized(vectors: Array) -> Array:
    """Returns the vectors, (rows, dimension), scaled to length 1; the zero vector stays."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.where(lengths == 0, 1, lengths)


def image_outputs(loaded: Loaded, names: Iterable[str]) -> list[str]:
    """Returns those among the outputs named that are images."""
    images = {spec.name for spec in loaded.signature.outputs_of(model_card_pb2.TENSOR_ROLE_IMAGE)}
    return [name for name in names if name in images]
