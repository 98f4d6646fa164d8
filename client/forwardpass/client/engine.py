"""How methods are carried out, for `operations`: time, size, retries and signatures."""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar

import grpc
from google.protobuf.message import Message

from forwardpass.client import inputs as given
from forwardpass.client import results
from forwardpass.client.card import TensorSpec
from forwardpass.client.errors import (
    ForwardpassError,
    InvalidInput,
    ServerError,
    from_rpc_error,
    from_stream_error,
)
from forwardpass.client.many import ManyRows
from forwardpass.client.models import Signature, Version, check_loaded, to_model
from forwardpass.client.polarity import PolarityCheck, PolarityWarning
from forwardpass.client.requests import (
    checked_size,
    plain_predict_message,
    plain_predict_request,
    to_message,
    to_reference,
)
from forwardpass.client.retries import Retries
from forwardpass.client.settings import Metadata, Pairs, Settings, checked_timeout, to_pairs
from forwardpass.client.steps import Begin, Call, Flow, Items, Many, Offload, Stream, Warn
from forwardpass.v1 import inference_service_pb2 as pb
from forwardpass.v1 import model_service_pb2 as model_pb
from forwardpass.wire import Array, Preparation, TensorError, to_tensor

Answer = TypeVar("Answer", results.Prediction, results.Embeddings)
Converted = TypeVar("Converted")
# Makes a request of a model, arrays, images and texts.
Build = Callable[
    [model_pb.ModelReference, Mapping[str, Array], Sequence[bytes], Sequence[str]], Message
]
# What a message has beside the rows that it is made for.
_ROOM = 1 << 16


@dataclass(frozen=True, slots=True)
class Kind(Generic[Answer]):
    """A call that runs a model on rows.

    Attributes:
        method: Its name.
        wrap: Makes of a request one of its stream.
        convert: Makes an answer of a response.
        order: Puts the outputs of an answer in an order; None where it has none.
        join: Makes the answers to parts, of so many rows each, one answer.
        divide: Makes of an answer one for each of its rows.
    """

    method: str
    wrap: Callable[[Any], Message]
    convert: Callable[[Any], Answer]
    order: Callable[[Answer, Sequence[str]], Answer] | None
    join: Callable[[Sequence[Answer], Sequence[int]], Answer]
    divide: Callable[[Answer, int], list[Answer]]


PREDICT = Kind(
    "predict",
    lambda request: pb.PredictStreamRequest(request=request),
    results.to_prediction,
    results.ordered,
    results.join_predictions,
    results.divide_prediction,
)
EMBED = Kind(
    "embed",
    lambda request: pb.EmbedStreamRequest(request=request),
    results.to_embeddings,
    None,
    results.join_embeddings,
    results.divide_embeddings,
)


class Rows(NamedTuple):
    """What a model is to run on.

    Attributes:
        inputs: What `Operations.predict` takes, as the next two, or what `predict_many` takes.
        images: Pictures, one a row.
        texts: Texts, one a row.
        invert: Whether to send the pictures' negatives.
        preparation: How pictures are prepared, instead of as the card says.
    """

    inputs: Any
    images: Any
    texts: Any
    invert: bool = False
    preparation: Preparation | None = None


class _Part(NamedTuple):
    """Rows that go in one call: how many, and what `Build` takes."""

    rows: int
    arrays: dict[str, Array]
    images: list[bytes]
    texts: Sequence[str]


class _SignatureNeededError(Exception):
    """An input cannot be sent before the model's signature is known."""


class Engine:
    """Carries out the methods of a client.

    Attributes:
        settings: The client's.

    Args:
        settings: The client's.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._headers = settings.headers
        self._retries = Retries(settings)
        self._signatures: dict[tuple[str, Version], Signature] = {}
        self._polarity = PolarityCheck()

    def run(
        self,
        kind: Kind[Answer],
        build: Build,
        model: str,
        rows: Rows,
        *,
        split: bool,
        version: Version,
        timeout: float | None,
        metadata: Metadata | None,
    ) -> Flow[Answer]:
        """Runs a model, and returns its answer."""
        if rows.images is None and rows.texts is None and not rows.invert and not split:
            try:
                arrays = given.to_arrays(rows.inputs, self._known_inputs(model, version))
            except _SignatureNeededError:
                pass
            else:
                # Most calls, without the steps that others take.
                message = None
                if build is plain_predict_request:
                    message = plain_predict_message(model, version, arrays)
                if message is None:
                    message = build(
                        to_reference(model, version), arrays, (), ()
                    ).SerializeToString()
                return self.send(kind.method, message, timeout, metadata, kind.convert)
        return self._run(
            kind,
            build,
            model,
            rows,
            split=split,
            version=version,
            timeout=timeout,
            metadata=metadata,
        )

    def _run(
        self,
        kind: Kind[Answer],
        build: Build,
        model: str,
        rows: Rows,
        *,
        split: bool,
        version: Version,
        timeout: float | None,
        metadata: Metadata | None,
    ) -> Flow[Answer]:
        reference = to_reference(model, version)
        until = time.monotonic() + self.seconds(timeout)
        pictures: list[given.Picture] = []
        if rows.images is not None or rows.invert:
            pictures = yield Offload(lambda: given.pictures(rows.images, invert=rows.invert))
        texts = given.texts(rows.texts)
        arrays = yield from self.arrays(rows.inputs, model, version)
        if split:
            answers, counts = [], []
            signature = yield from self.signature(model, version)
            for part in self._parts(signature, arrays, pictures, texts):
                left = max(until - time.monotonic(), 1e-3)
                request = build(reference, part.arrays, part.images, part.texts)
                answer = yield from self.call(kind.method, request, left, metadata, kind.convert)
                answers.append(answer)
                counts.append(part.rows)
            answer = kind.join(answers, counts)
        else:
            images = [picture.data for picture in pictures]
            request = build(reference, arrays, images, texts)
            answer = yield from self.call(kind.method, request, timeout, metadata, kind.convert)
        if pictures:
            yield from self.look_at(pictures, answer, until, rows)
        return answer

    def call(
        self,
        method: str,
        request: Message,
        timeout: float | None,
        metadata: Metadata | None,
        convert: Callable[[Any], Converted],
    ) -> Flow[Converted]:
        """Makes a unary call, and returns what `convert` makes of the response."""
        return self.send(method, request.SerializeToString(), timeout, metadata, convert)

    def send(
        self,
        method: str,
        message: bytes,
        timeout: float | None,
        metadata: Metadata | None,
        convert: Callable[[Any], Converted],
    ) -> Flow[Converted]:
        """Makes a unary call as `call`, with the bytes of a request."""
        seconds = self.settings.timeout if timeout is None else checked_timeout(timeout)
        message = checked_size(message, self.settings.max_message_bytes)
        headers = self._pairs(metadata) if metadata else self._headers
        call = Call(method, message, seconds, headers, time.monotonic())
        try:
            try:
                response = yield call
            except grpc.RpcError as error:
                response = yield from self._retries.again(call, error)
            else:
                self._retries.note_success()
            return convert(response)
        except (grpc.RpcError, TensorError) as error:
            raise self.explain(error, seconds) from None

    def stream(
        self,
        kind: Kind[Answer],
        build: Build,
        model: str,
        requests: Items[given.Inputs],
        *,
        order: list[str] | None,
        version: Version,
        timeout: float | None,
        metadata: Metadata | None,
    ) -> Stream[Answer]:
        """Returns how requests go over a stream, one answered after the other."""
        reference = to_reference(model, version)
        seconds = self.seconds(timeout)
        put_in_order: Callable[[Answer], Answer] = lambda answer: answer  # noqa: E731

        def message(inputs: given.Inputs) -> Flow[bytes]:
            nonlocal put_in_order
            put_in_order = yield from self._order(kind, order, model, version)
            arrays = yield from self.arrays(inputs, model, version)
            request = kind.wrap(build(reference, arrays, (), ()))
            return to_message(request, self.settings.max_message_bytes)

        def convert(answer: Any) -> Answer:
            if answer.WhichOneof("result") == "error":
                raise from_stream_error(answer.error)
            return put_in_order(kind.convert(answer.response))

        method = f"{kind.method}_stream"
        return Stream(method, requests, message, convert, seconds, self._pairs(metadata))

    def many(
        self,
        kind: Kind[Answer],
        build: Build,
        model: str,
        items: Rows,
        *,
        order: list[str] | None,
        version: Version,
        timeout: float | None,
        metadata: Metadata | None,
    ) -> Many[Any]:
        """Returns how any number of rows are answered, over streams."""
        reference = to_reference(model, version)
        taken = {
            "inputs": items.inputs,
            "images": items.images,
            "texts": items.texts,
        }
        named = [name for name, value in taken.items() if value is not None]
        if len(named) != 1:
            raise InvalidInput(
                f"one of inputs, images and texts is given, got {' and '.join(named) or 'none'}",
                field="inputs",
            )
        seconds, pairs = self.seconds(timeout), self._pairs(metadata)

        def flow() -> Flow[None]:
            signature = yield from self.signature(model, version)
            put_in_order = yield from self._order(kind, order, model, version)
            rows = ManyRows(
                form=named[0],
                invert=items.invert,
                signature=signature,
                method=f"{kind.method}_stream",
                seconds=seconds,
                metadata=pairs,
                max_bytes=self.settings.max_message_bytes - _ROOM,
                to_message=lambda arrays, images, texts: to_message(
                    kind.wrap(build(reference, arrays, images, texts)),
                    self.settings.max_message_bytes,
                ),
                convert=lambda response: put_in_order(kind.convert(response)),
                divide=kind.divide,
                retries=self._retries,
                explain=self.explain,
                look=lambda pictures, answer: self.look_at(
                    pictures, answer, time.monotonic() + seconds, items
                ),
            )
            yield from rows.run()

        return Many(taken[named[0]], flow())

    def begin(self, begin: Begin) -> Flow[Any]:
        """Opens a stream of answers, and returns it with the first; retried as a call is."""
        try:
            return (yield begin)
        except grpc.RpcError as error:
            return (yield from self._retries.again(begin, error))

    def arrays(self, inputs: given.Inputs, model: str, version: Version) -> Flow[dict[str, Array]]:
        """Returns the arrays to send; asks for the model's signature only where it must."""
        try:
            return given.to_arrays(inputs, self._known_inputs(model, version))
        except _SignatureNeededError:
            signature = yield from self.signature(model, version)
            return given.to_arrays(inputs, lambda: signature.inputs)

    def _known_inputs(self, model: str, version: Version) -> Callable[[], tuple[TensorSpec, ...]]:
        """Returns what gives a model's inputs, or raises where they have to be asked for."""

        def specs() -> tuple[TensorSpec, ...]:
            known = self._signatures.get((model, version))
            if known is None:
                raise _SignatureNeededError
            return known.inputs

        return specs

    def signature(self, model: str, version: Version) -> Flow[Signature]:
        """Returns a model's signature: asked for once, since its versions seldom differ in it."""
        signature = self._signatures.get((model, version))
        if signature is None:
            request = model_pb.GetModelRequest(model=to_reference(model, version))
            found = yield from self.call("get_model", request, None, None, to_model)
            check_loaded(found)
            signature = self._signatures[model, version] = found.signature
        return signature

    def look_at(
        self,
        pictures: Sequence[given.Picture],
        answer: results.Prediction | results.Embeddings,
        until: float,
        rows: Rows,
    ) -> Flow[None]:
        """Warns of pictures, already answered, that the model is likely to have misread."""
        name, version = answer.model, answer.version
        left = until - time.monotonic()
        if not self._polarity.knows((name, version)) and left > 0:
            request = model_pb.GetModelRequest(model=to_reference(name, version))
            try:
                found = yield from self.call("get_model", request, left, None, to_model)
                card = found.card
            except ForwardpassError:
                # What was asked for is answered, and whoever may not see cards does without.
                card = None
            self._polarity.remember((name, version), card)
        text = yield Offload(
            lambda: self._polarity.look_at(
                pictures, (name, version), preparation=rows.preparation, inverted=rows.invert
            )
        )
        if text:
            yield Warn(text, PolarityWarning)

    def seconds(self, timeout: float | None) -> float:
        """Returns how long a call may take."""
        return self.settings.timeout if timeout is None else checked_timeout(timeout)

    def to_call(
        self, method: str, request: Message, timeout: float | None, metadata: Metadata | None
    ) -> Call:
        """Returns a call, ready to be made.

        Raises:
            MessageTooLarge: The request is over the limit.
            InvalidSetting: The timeout, or the metadata, cannot be one.
        """
        message = to_message(request, self.settings.max_message_bytes)
        return Call(method, message, self.seconds(timeout), self._pairs(metadata))

    def explain(self, error: Exception, seconds: float) -> Exception:
        """Returns what goes wrong with a call as a `ForwardpassError`; other errors as they are."""
        if isinstance(error, grpc.RpcError):
            return from_rpc_error(error, self.settings.name, seconds)
        if isinstance(error, TensorError):
            return ServerError(f"{self.settings.name} answered with a broken tensor: {error}")
        return error

    def _order(
        self, kind: Kind[Answer], order: list[str] | None, model: str, version: Version
    ) -> Flow[Callable[[Answer], Answer]]:
        """Returns what puts the outputs of an answer in order: as asked for, or as they are known.

        What comes over the wire is in no order.
        """
        put = kind.order
        if put is None:
            return lambda answer: answer
        if order is None:
            signature = yield from self.signature(model, version)
            order = [spec.name for spec in signature.outputs]
        names = order
        return (lambda answer: answer) if len(names) < 2 else (lambda answer: put(answer, names))

    def _pairs(self, metadata: Metadata | None) -> Pairs:
        return (*self._headers, *to_pairs(metadata)) if metadata else self._headers

    def _parts(
        self,
        signature: Signature,
        arrays: dict[str, Array],
        pictures: Sequence[given.Picture],
        texts: Sequence[str],
    ) -> Iterator[_Part]:
        """Yields the rows in parts that the model and a message take."""
        if not signature.batched:
            raise InvalidInput(
                "split=True is for models whose rows are independent, and this one's signature is "
                "not batched: make requests of your own",
                field="inputs",
            )
        counts = {len(rows) for rows in (*arrays.values(), pictures, texts) if len(rows)}
        if len(counts) > 1:
            raise InvalidInput(
                f"the rows of all inputs agree, got {sorted(counts)}", field="inputs"
            )
        count = counts.pop() if counts else 0
        fixed = sum(
            math.ceil(to_tensor(array).ByteSize() / max(count, 1)) for array in arrays.values()
        )
        sizes = [
            fixed
            + (len(pictures[row].data) if pictures else 0)
            + (4 * len(texts[row]) if texts else 0)
            for row in range(count)
        ]
        most_bytes = self.settings.max_message_bytes - _ROOM
        for start, stop in _cuts(sizes, signature.max_rows or max(count, 1), most_bytes):
            yield _Part(
                stop - start,
                {name: rows[start:stop] for name, rows in arrays.items()},
                [picture.data for picture in pictures[start:stop]],
                texts[start:stop],
            )


def at_once(result: Converted) -> Flow[Converted]:
    """Returns a flow of no step."""
    return result
    yield  # a generator


def _cuts(sizes: Sequence[int], most_rows: int, most_bytes: int) -> Iterator[tuple[int, int]]:
    """Yields where parts begin and end: of so many rows, and bytes, at most, but of a row at least.

    There is one part where there is no row, as the server has something to say of that.
    """
    start, taken = 0, 0
    for row, size in enumerate(sizes):
        if row > start and (row - start == most_rows or taken + size > most_bytes):
            yield start, row
            start, taken = row, 0
        taken += size
    yield start, len(sizes)
