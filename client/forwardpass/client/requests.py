"""Requests, made of what callers hand in."""

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, TypeVar

import numpy as np
from google.protobuf.message import Message
from numpy.typing import ArrayLike

from forwardpass.client import inputs as given
from forwardpass.client.errors import MessageTooLarge
from forwardpass.client.models import Version
from forwardpass.v1 import inference_service_pb2 as pb
from forwardpass.v1 import model_service_pb2 as model_pb
from forwardpass.v1 import tensor_pb2
from forwardpass.wire import Array, Preparation, element_type, to_preparation
from forwardpass.wire.fields import length_delimited, tag_and_length

# The bytes of a tensor's elements are those of such an array.
_SENT_AS_THEY_ARE = frozenset(map(np.dtype, ("<f4", "u1")))
# The fields of an entry of a map.
_KEY, _VALUE = 1, 2
Request = TypeVar("Request", bound=Message)


@lru_cache(maxsize=256)
def to_reference(name: str, version: Version) -> model_pb.ModelReference:
    """Returns what names a version; not to be changed, as it is remembered.

    Raises:
        InvalidInput: The name or the version cannot be one.
    """
    given.check_text(name, "model")
    if version is None:
        return model_pb.ModelReference(name=name)
    if isinstance(version, str):
        given.check_text(version, "version")
        return model_pb.ModelReference(name=name, label=version)
    return model_pb.ModelReference(name=name, version=given.unsigned(version, "version", 63))


def plain_predict_request(
    model: model_pb.ModelReference,
    arrays: Mapping[str, Array],
    images: Sequence[bytes],
    texts: Sequence[str],
) -> pb.PredictRequest:
    """Returns a request of `Predict` that asks for nothing but the outputs.

    Each field that is named takes time, also where it is empty.
    """
    if images or texts:
        request = pb.PredictRequest(model=model, images=images, texts=texts)
    else:
        request = pb.PredictRequest(model=model)
    given.fill(request.inputs, arrays)
    return request


def plain_predict_message(name: str, version: Version, arrays: Mapping[str, Array]) -> bytes | None:
    """Returns the bytes of a `plain_predict_request` for one array; None where it takes that."""
    if len(arrays) != 1:
        return None
    ((field, array),) = arrays.items()
    if array.dtype not in _SENT_AS_THEY_ARE:
        return None
    return _head(name, version, field, array.dtype, array.shape) + array.tobytes()


@lru_cache(maxsize=256)
def _head(
    name: str, version: Version, field: str, dtype: np.dtype[Any], shape: tuple[int, ...]
) -> bytes:
    """Returns what comes before the elements in a request of `Predict` that they end.

    Callers send the same with other elements again and again, and to make the message anew takes
    longer than all else here. Each message around the elements tells how long it is with them.

    Args:
        name: The model's.
        version: As `to_reference`.
        field: The input's name.
        dtype: Of the elements.
        shape: The array's.
    """
    size = math.prod(shape) * dtype.itemsize
    head = tag_and_length(tensor_pb2.Tensor.CONTENT_FIELD_NUMBER, size)
    kind = element_type(dtype).data_type
    head = tensor_pb2.Tensor(data_type=kind, shape=shape).SerializeToString() + head
    head = tag_and_length(_VALUE, len(head) + size) + head
    head = length_delimited(_KEY, field.encode()) + head
    head = tag_and_length(pb.PredictRequest.INPUTS_FIELD_NUMBER, len(head) + size) + head
    return pb.PredictRequest(model=to_reference(name, version)).SerializeToString() + head


def predict_request(
    model: model_pb.ModelReference,
    arrays: Mapping[str, Array],
    images: Sequence[bytes],
    texts: Sequence[str],
    *,
    outputs: list[str] | None,
    top_k: int,
    png: bool,
    timing: bool,
    preparation: Preparation | None,
) -> pb.PredictRequest:
    """Returns a request of `Predict`; see `Operations.predict`."""
    request = pb.PredictRequest(
        model=model,
        images=images,
        texts=texts,
        outputs=outputs,
        top_k=given.unsigned(top_k, "top_k", 32),
        png=png,
        timing=timing,
        image_preparation=to_preparation(preparation) if preparation else None,
    )
    given.fill(request.inputs, arrays)
    return request


def embed_request(
    model: model_pb.ModelReference,
    arrays: Mapping[str, Array],
    images: Sequence[bytes],
    texts: Sequence[str],
    *,
    output: str | None,
    normalize: bool,
    half_precision: bool,
    alone: bool,
    timing: bool,
    preparation: Preparation | None,
) -> pb.EmbedRequest:
    """Returns a request of `Embed`; see `Operations.embed`."""
    request = pb.EmbedRequest(
        model=model,
        images=images,
        texts=texts,
        output=output or "",
        normalize=normalize,
        half_precision=half_precision,
        alone=alone,
        timing=timing,
        image_preparation=to_preparation(preparation) if preparation else None,
    )
    given.fill(request.inputs, arrays)
    return request


def generate_request(
    model: model_pb.ModelReference,
    *,
    count: int | None,
    seed: int | None,
    latents: ArrayLike | None,
    class_: int | str | None,
    prompt: str | None,
    temperature: float | None,
    length: int | None,
    png: bool,
    timing: bool,
) -> pb.GenerateRequest:
    """Returns a request of `Generate`; see `Operations.generate`."""
    if prompt is not None:
        given.check_text(prompt, "prompt")
    request = pb.GenerateRequest(
        model=model,
        count=None if count is None else given.unsigned(count, "count", 32),
        seed=None if seed is None else given.unsigned(seed, "seed", 64),
        latents=given.latents(latents),
        prompt=prompt,
        temperature=temperature,
        length=None if length is None else given.unsigned(length, "length", 32),
        png=png,
        timing=timing,
    )
    if isinstance(class_, str):
        given.check_text(class_, "class")
        request.class_label = class_
    elif class_ is not None:
        request.class_index = given.unsigned(class_, "class", 32)
    return request


def to_message(request: Message, limit: int) -> bytes:
    """Returns a request's bytes.

    Raises:
        MessageTooLarge: They are more than the limit.
    """
    return checked_size(request.SerializeToString(), limit)


def checked_size(message: bytes, limit: int) -> bytes:
    """Returns a request's bytes as they are.

    Raises:
        MessageTooLarge: They are more than the limit.
    """
    if len(message) > limit:
        # gRPC would find out too, but could not tell that there is no use in trying again.
        raise MessageTooLarge(
            f"the request takes {len(message)} bytes, and the limit is {limit}: send fewer rows in "
            "a call, have it split (split=True), or raise max_message_bytes here and on the server"
        )
    return message
