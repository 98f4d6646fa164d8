"""What a request brings: tensors, images and texts become one array for each input."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from math import prod
from typing import Any, TypeAlias

import numpy as np

from forwardpass.pixels import ByteBudget, ImageError, decoding_bytes, open_image, to_pixels
from forwardpass.server.aligned import empty_aligned
from forwardpass.server.errors import Abandoned, InvalidInput, quote
from forwardpass.server.loading.loaded import Loaded
from forwardpass.server.onnx.signature import TensorSpec
from forwardpass.server.rpc.receive import MAX_BYTES, Received
from forwardpass.server.scheduling.admission import Admission
from forwardpass.server.transport.call import Call
from forwardpass.v1 import model_card_pb2, tensor_pb2
from forwardpass.v1.inference_service_pb2 import EmbedRequest, PredictRequest
from forwardpass.wire import (
    Array,
    Preparation,
    PreparationError,
    TensorError,
    from_preparation,
    from_tensor,
)

_STRING = np.dtype(object)
# What a short string takes in Python, with its place in an array.
_STRING_BYTES = 64
# What strings become is counted beyond this many bytes.
_SMALL_BYTES = 1 << 16
# Images of a request may have as many pixels together as so many of the largest.
_LARGE_IMAGES = 8
# For all images that are decoded at one time; a larger one is decoded alone.
_DECODING_BYTES = 256 << 20
Request: TypeAlias = PredictRequest | EmbedRequest


@dataclass(frozen=True, slots=True)
class InputReader:
    """Makes the arrays of a request.

    Attributes:
        admission: Counts what a request becomes.
        reject_nonfinite: Whether NaN and infinities are refused.
        max_pixels: The most pixels that an encoded image may have.
        decoding: For the memory of all images that are decoded at one time.
    """

    admission: Admission
    reject_nonfinite: bool
    max_pixels: int
    decoding: ByteBudget = field(default_factory=lambda: ByteBudget(_DECODING_BYTES))

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
            CallError: QUEUE_FULL: there is no room for what it becomes.
        """
        check_size(loaded, received)
        arrays = {}
        for name, tensor in request.inputs.items():
            if tensor.data_type == tensor_pb2.DATA_TYPE_STRING:
                self.hold_strings(call, tensor.shape)
            arrays[name] = self.tensor(name, tensor, received.content(tensor.content))
        if images := request.images:
            spec, form, usual = _image_input(loaded, len(images))
            self.hold(call, len(images) * form.height * form.width * form.channels)
            how = preparation_of(loaded, request) or usual
            array = await call.offload(partial(self._decode, call, images, form, how))
            _put(arrays, spec, array, "images")
        if request.texts:
            self.hold_strings(call, (len(request.texts),))
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

    def hold(self, call: Call, size: int) -> None:
        """Counts bytes that a request becomes, until its call ends; on the call's own thread.

        Raises:
            CallError: QUEUE_FULL: there is no room for them.
            InvalidInput: There never is.
        """
        self.admission.hold(call, size)
        call.size += size

    def hold_strings(self, call: Call, shape: Sequence[int]) -> None:
        """Counts what strings become in Python, which is far more than what they are sent as."""
        # Whatever a shape claims before it is looked at, each takes a byte of the message.
        size = min(abs(prod(shape)), call.size) * _STRING_BYTES
        if size > _SMALL_BYTES:
            self.hold(call, size)

    def _decode(
        self,
        call: Call,
        images: Sequence[bytes],
        form: model_card_pb2.ImageInput,
        preparation: Preparation,
    ) -> Array:
        """Decodes images, until their caller has gone."""
        shape = (len(images), form.height, form.width, form.channels)
        pixels = empty_aligned(shape, np.dtype(np.uint8))
        most = left = _LARGE_IMAGES * self.max_pixels
        for row, data in enumerate(images):
            try:
                image = open_image(data, self.max_pixels)
                left -= image.width * image.height
                if left < 0:
                    raise InvalidInput(
                        f"images[0] to images[{row}] have more than {most} pixels together, but a "
                        "request may have no more; send fewer images, or smaller ones",
                        field="images",
                        expected=most,
                        got=most - left,
                    )
                with self.decoding.use(decoding_bytes(image, form.channels)):
                    # Its caller may have gone while it waited.
                    if call.has_ended:
                        raise Abandoned
                    pixels[row] = to_pixels(image, form.channels, shape[1:3], preparation)
            except ImageError as error:
                raise InvalidInput(f"images[{row}]: {error}", field=f"images[{row}]") from None
        return pixels


def _image_input(
    loaded: Loaded, count: int
) -> tuple[TensorSpec, model_card_pb2.ImageInput, Preparation]:
    """Returns the input that images are for, their form, and what the card does to them.

    Raises:
        InvalidInput: The model takes no images, or not as many.
    """
    spec = loaded.signature.input_of(model_card_pb2.TENSOR_ROLE_IMAGE)
    preparation = loaded.preparation
    if spec is None or loaded.card is None or preparation is None:
        raise InvalidInput("the model takes no images; send tensors", field="images")
    _check_count(loaded, count, "images")
    return spec, loaded.card.image, preparation


def preparation_of(loaded: Loaded, request: Request) -> Preparation | None:
    """Returns how a request has its images prepared, where not as the model's card says.

    Raises:
        InvalidInput: There is no such preparation, or the model takes no images.
    """
    if not request.HasField("image_preparation"):
        return None
    if loaded.preparation is None:
        raise InvalidInput("the model takes no images to prepare", field="image_preparation")
    try:
        asked = from_preparation(request.image_preparation)
    except PreparationError as error:
        raise InvalidInput(f"image_preparation: {error}", field="image_preparation") from None
    return None if asked == loaded.preparation else asked


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
