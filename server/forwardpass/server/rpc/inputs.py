"""What a request brings: tensors, images and texts become one array for each input."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from forwardpass.pixels import ImageError, decode_image
from forwardpass.server.errors import InvalidInput, quote
from forwardpass.server.loading.loaded import Loaded
from forwardpass.server.onnx.signature import TensorSpec
from forwardpass.server.rpc.receive import MAX_BYTES, Received
from forwardpass.server.transport.call import Call
from forwardpass.v1 import model_card_pb2, tensor_pb2
from forwardpass.v1.inference_service_pb2 import EmbedRequest, PredictRequest
from forwardpass.wire import Array, TensorError, from_tensor

_STRING = np.dtype(object)
Request: TypeAlias = PredictRequest | EmbedRequest


@dataclass(frozen=True, slots=True)
class InputReader:
    """Makes the arrays of a request.

    Attributes:
        reject_nonfinite: Whether NaN and infinities are refused.
        max_pixels: The most pixels that an encoded image may have.
    """

    reject_nonfinite: bool
    max_pixels: int

    async def read(
        self, call: Call, loaded: Loaded, received: Received[Any], request: Request
    ) -> dict[str, Array]:
        """Returns an array for each input that a native request gives.

        Images are decoded where that keeps no other call waiting.

        Args:
            call: Who asks.
            loaded: The model.
            received: What the request came in.
            request: The request: tensors by input name, images and texts one a row.

        Raises:
            InvalidInput: More elements than the model takes, a tensor that contradicts itself, an
                image that cannot be read, an input given twice, or images or texts for a model
                that takes none.
        """
        check_size(loaded, received)
        arrays = {
            name: self.tensor(name, tensor, received.content(tensor.content))
            for name, tensor in request.inputs.items()
        }
        if images := request.images:
            spec, array = await call.offload(lambda: self._images(loaded, images))
            _put(arrays, spec, array, "images")
        if request.texts:
            spec, array = _texts(loaded, request.texts)
            _put(arrays, spec, array, "texts")
        return arrays

    def tensor(
        self, name: str, tensor: tensor_pb2.Tensor, content: bytes | memoryview | None = None
    ) -> Array:
        """Returns the array of one tensor; strings as `str`.

        Args:
            name: The input's.
            tensor: The tensor.
            content: Its elements, where they lie; None for those that it holds itself.

        Raises:
            InvalidInput: The tensor contradicts itself, or is not finite where it must be.
        """
        field = f"inputs.{quote(name)}"
        try:
            array = from_tensor(tensor, content)
        except TensorError as error:
            raise InvalidInput(f"inputs[{quote(name)}]: {error}", field=field) from None
        if array.dtype == _STRING:
            return _decode_strings(array, name)
        if self.reject_nonfinite and array.dtype.kind in "fV" and not np.isfinite(array).all():
            raise InvalidInput(
                f"inputs[{quote(name)}] has a NaN or an infinity, which this server refuses",
                field=field,
            )
        return array

    def _images(self, loaded: Loaded, images: Sequence[bytes]) -> tuple[TensorSpec, Array]:
        spec = loaded.signature.input_of(model_card_pb2.TENSOR_ROLE_IMAGE)
        if spec is None or loaded.card is None:
            raise InvalidInput("the model takes no images; send tensors", field="images")
        _check_count(loaded, len(images), "images")
        form = loaded.card.image
        pixels = np.empty((len(images), form.height, form.width, form.channels), np.uint8)
        for row, data in enumerate(images):
            try:
                pixels[row] = decode_image(
                    data, form.channels, (form.height, form.width), max_pixels=self.max_pixels
                )
            except ImageError as error:
                raise InvalidInput(f"images[{row}]: {error}", field=f"images[{row}]") from None
        return spec, pixels


def check_size(loaded: Loaded, received: Received[Any], most: int | None = None) -> None:
    """Refuses a request whose elements are far more than its model takes, before they are read.

    The transport's limit is one for all models. A model that states how many rows a request may
    have, and how long each is, takes no more than that; a few too many are told by their rows.

    Args:
        loaded: The model.
        received: The request.
        most: How many bytes its elements have at most, 0 for any number; None for what the
            model's signature says of its inputs.

    Raises:
        InvalidInput: It is too long.
    """
    size = received.content_bytes
    if not size:
        return
    if most is None:
        most = loaded.signature.max_bytes()
    if most and size > most + MAX_BYTES:
        raise InvalidInput(
            f"{size} bytes of tensors, but the model takes at most {most} in a request; "
            "send fewer rows",
            field="inputs",
            expected=most,
            got=size,
        )


def _texts(loaded: Loaded, texts: Sequence[str]) -> tuple[TensorSpec, Array]:
    spec = loaded.signature.input_of(model_card_pb2.TENSOR_ROLE_TEXT)
    if spec is None:
        raise InvalidInput("the model takes no texts; send tensors", field="texts")
    array = np.array(texts, dtype=object)
    return spec, array.reshape(-1, 1) if len(spec.shape) == 2 else array


def _check_count(loaded: Loaded, count: int, field: str) -> None:
    """Refuses too many rows before they are decoded."""
    most = loaded.signature.max_rows
    if most and count > most:
        raise InvalidInput(
            f"{count} {field}, but the model takes at most {most} in a request",
            field=field,
            expected=most,
            got=count,
        )


def _put(arrays: dict[str, Array], spec: TensorSpec, array: Array, field: str) -> None:
    if spec.name in arrays:
        raise InvalidInput(
            f"input {quote(spec.name)} is given twice, as a tensor and as {field}", field=field
        )
    arrays[spec.name] = array


def _decode_strings(array: Array, name: str) -> Array:
    texts = np.empty(array.shape, object)
    flat = texts.reshape(-1)
    for index, data in enumerate(array.reshape(-1)):
        try:
            flat[index] = data.decode()
        except UnicodeDecodeError:
            raise InvalidInput(
                f"inputs[{quote(name)}] has a string that is not UTF-8, at element {index}",
                field=f"inputs.{quote(name)}",
            ) from None
    return texts
