"""PredictResponse and EmbedResponse, put together from bytes for requests of known templates.

What repeats from answer to answer is written once and kept: all but the elements.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache

from forwardpass.server.rpc.request_templates import Plan, assemble
from forwardpass.server.rpc.schema import (
    EMBEDDINGS,
    MAP_KEY,
    MAP_VALUE,
    PREDICT_OUTPUTS,
    TENSOR_CONTENT,
)
from forwardpass.server.scheduling.job import Outcome
from forwardpass.v1.inference_service_pb2 import EmbedResponse, PredictResponse
from forwardpass.v1.model_service_pb2 import ModelVersion
from forwardpass.v1.tensor_pb2 import Tensor
from forwardpass.wire import Array
from forwardpass.wire.dtypes import element_type
from forwardpass.wire.fields import length_delimited, tag_and_length


def encode_predictions(plan: Plan, request_ids: Sequence[str], run: Outcome) -> list[bytes]:
    """Returns the bytes of PredictResponses to requests of one template that have shared a run.

    Args:
        plan: What was asked for; no output is strings.
        request_ids: As many as requests.
        run: What the model gave.
    """
    loaded, count = plan.loaded, len(request_ids)
    outputs = []
    for name in plan.outputs:
        kind = loaded.signature.outputs[name].type
        shape, content = run.outputs[name].shape, run.content(name)
        if count > 1:
            shape = (plan.rows, *shape[1:])
        outputs.append((_entry(name, kind.data_type, shape, len(content) // count), content))
    return assemble(_predicted(loaded.name, loaded.number), outputs, count)


def encode_embeddings(
    plan: Plan,
    vectors_of: Callable[[Array], Array],
    request_ids: Sequence[str],
    run: Outcome,
) -> list[bytes]:
    """Returns the bytes of EmbedResponses to requests of one template that have shared a run.

    Args:
        plan: What was asked for: one output.
        vectors_of: Brings the vectors into the form asked for.
        request_ids: As many as requests.
        run: What the model gave.
    """
    loaded, count = plan.loaded, len(request_ids)
    (name,) = plan.outputs
    vectors = vectors_of(run.outputs[name])
    content = vectors.tobytes()
    shape = vectors.shape if count == 1 else (plan.rows, *vectors.shape[1:])
    prefix = _embedded_tensor(element_type(vectors.dtype).data_type, shape, len(content) // count)
    same = _embedded(loaded.name, loaded.number, loaded.embedding_spaces[name])
    return assemble(same, [(prefix, content)], count)


# What is kept below has names, types and numbers of loaded models only, none of a caller.
@lru_cache(1024)
def _predicted(name: str, number: int) -> bytes:
    return PredictResponse(model=ModelVersion(name=name, version=number)).SerializeToString()


@lru_cache(1024)
def _embedded(name: str, number: int, space_id: str) -> bytes:
    model = ModelVersion(name=name, version=number)
    return EmbedResponse(model=model, space_id=space_id).SerializeToString()


@lru_cache(4096)
def _entry(name: str, data_type: int, shape: tuple[int, ...], size: int) -> bytes:
    """Returns what stands before the elements of an output in its entry of the map."""
    key = length_delimited(MAP_KEY, name.encode())
    tensor = _tensor(data_type, shape, size)
    value = tag_and_length(MAP_VALUE, len(tensor) + size) + tensor
    return tag_and_length(PREDICT_OUTPUTS, len(key) + len(value) + size) + key + value


@lru_cache(4096)
def _embedded_tensor(data_type: int, shape: tuple[int, ...], size: int) -> bytes:
    """Returns what stands before the elements of the embeddings."""
    tensor = _tensor(data_type, shape, size)
    return tag_and_length(EMBEDDINGS, len(tensor) + size) + tensor


def _tensor(data_type: int, shape: tuple[int, ...], size: int) -> bytes:
    """Returns a tensor but for its elements, which come last."""
    # An empty field is not sent, but may be.
    without: bytes = Tensor(data_type=data_type, shape=shape).SerializeToString()  # type: ignore[arg-type]  # a number of the enum
    return without + tag_and_length(TENSOR_CONTENT, size)
