"""A ModelInferResponse, put together from bytes.

Messages written one after the other are one message with the fields of all. So what repeats from
answer to answer (the model, a tensor's name, type and shape) is written once and kept, and the
elements are copied once, into the answer.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache

from forwardpass.server.open_inference.classification import classify
from forwardpass.server.open_inference.messages import message
from forwardpass.server.rpc.request_templates import Plan, assemble
from forwardpass.server.rpc.schema import INFER_RESPONSE, RAW_OUTPUT_CONTENTS
from forwardpass.server.scheduling.job import Answer, Outcome
from forwardpass.wire import Array, to_tensor
from forwardpass.wire.dtypes import STRING
from forwardpass.wire.fields import tag_and_length

_ModelInferResponse = message("ModelInferResponse")
_ModelStreamInferResponse = message("ModelStreamInferResponse")
_InferParameter = message("InferParameter")
# Each request has one answer, so each answer of a stream is its request's last.
_FINAL: bytes = _ModelInferResponse(
    parameters={"triton_final_response": _InferParameter(bool_param=True)}
).SerializeToString()


def encode(plan: Plan, classes: Mapping[str, int], request_id: str, answer: Answer) -> bytes:
    """Returns the bytes of the answer.

    Args:
        plan: What was asked for.
        classes: How many classes to name instead of an output's values, by output.
        request_id: What the caller calls the request; the answer has it too.
        answer: What the model gave.
    """
    loaded, own = plan.loaded, answer.own()
    parts = [_model(loaded.name, loaded.number)]
    contents: list[bytes] = []
    if request_id:
        parts.append(_id(request_id))
    for name in plan.outputs:
        array, kind = own.outputs[name], loaded.signature.outputs[name].type
        if count := classes.get(name):
            labels = loaded.output_labels.get(name, ())
            array = classify(array, labels, count, batched=loaded.signature.batched)
            kind = STRING
        data = _elements(array) if kind is STRING else own.content(name)
        parts.append(_tensor(name, kind.open_inference, array.shape))
        contents += (_prefix(RAW_OUTPUT_CONTENTS, len(data)), data)
    return b"".join((*parts, *contents))


def encode_alike(plan: Plan, request_ids: Sequence[str], run: Outcome) -> list[bytes]:
    """Returns the bytes of the answers to requests of one template that have shared a run.

    Args:
        plan: What was asked for; no output is strings.
        request_ids: What the callers call the requests, in the order of their rows.
        run: What the model gave.
    """
    loaded, count = plan.loaded, len(request_ids)
    same = _model(loaded.name, loaded.number)
    contents = []
    for name in plan.outputs:
        kind = loaded.signature.outputs[name].type
        shape, content = run.outputs[name].shape, run.content(name)
        if count > 1:
            shape = (plan.rows, *shape[1:])
        same += _tensor(name, kind.open_inference, shape)
        contents.append((_prefix(RAW_OUTPUT_CONTENTS, len(content) // count), content))
    messages = assemble(same, contents, count)
    return [
        message + _id(request_id) if request_id else message
        for message, request_id in zip(messages, request_ids, strict=True)
    ]


def stream_answer(response: bytes) -> bytes:
    """Returns the ModelStreamInferResponse that holds a ModelInferResponse."""
    size = len(response) + len(_FINAL)
    return b"".join((_prefix(INFER_RESPONSE, size), response, _FINAL))


def stream_error(text: str, request_id: str) -> bytes:
    """Returns the ModelStreamInferResponse that tells what was wrong with a request."""
    data: bytes = _ModelStreamInferResponse(
        error_message=text, infer_response=_ModelInferResponse(id=request_id)
    ).SerializeToString()
    return data


def _id(request_id: str) -> bytes:
    data: bytes = _ModelInferResponse(id=request_id).SerializeToString()
    return data


# What is kept below has names, types and numbers of loaded models only, none of a caller.
@lru_cache(1024)
def _model(name: str, number: int) -> bytes:
    data: bytes = _ModelInferResponse(
        model_name=name, model_version=str(number)
    ).SerializeToString()
    return data


@lru_cache(4096)
def _tensor(name: str, datatype: str, shape: tuple[int, ...]) -> bytes:
    tensor = _ModelInferResponse.InferOutputTensor(name=name, datatype=datatype, shape=shape)
    data: bytes = _ModelInferResponse(outputs=[tensor]).SerializeToString()
    return data


@lru_cache(4096)
def _prefix(field: int, size: int) -> bytes:
    """Returns the tag and the length that go before a field's bytes."""
    return tag_and_length(field, size)


def _elements(strings: Array) -> bytes:
    content: bytes = to_tensor(strings).content
    return content
