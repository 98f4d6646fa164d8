"""The client: numpy in, numpy out, one method a call."""

import itertools
import math
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from types import TracebackType
from typing import Any, Self, TypeVar

import grpc
from google.protobuf.message import Message
from numpy.typing import ArrayLike

from forwardpass.client import inputs as given
from forwardpass.client import results
from forwardpass.client.card import TensorSpec
from forwardpass.client.channel import Tls, check_target, open_channel
from forwardpass.client.connection import Connection
from forwardpass.client.errors import (
    Cancelled,
    InvalidSetting,
    MessageTooLarge,
    ServerError,
    from_rpc_error,
    from_stream_error,
)
from forwardpass.client.methods import SERVING, HealthRequest, Methods
from forwardpass.client.models import (
    Model,
    ModelSummary,
    Signature,
    Version,
    check_loaded,
    to_model,
    to_summaries,
)
from forwardpass.client.polarity import PolarityCheck, PolarityWarning
from forwardpass.client.retries import Retries
from forwardpass.v1 import inference_service_pb2 as pb
from forwardpass.v1 import model_service_pb2 as model_pb
from forwardpass.wire import Preparation, TensorError, to_preparation

Response = TypeVar("Response", bound=Message)
Result = TypeVar("Result")

DEFAULT_TARGET = "127.0.0.1:8001"
DEFAULT_TIMEOUT = 30.0
DEFAULT_MESSAGE_BYTES = 64 << 20


class Client:
    """Calls the models of one server, or of several behind one DNS name in turn.

    Connects at the first call, and again whenever the connection is lost. May be used by several
    threads at once, and be pickled: what is pickled are its settings. A process that was forked
    after a first call has no use for it, or any other (`Forked`). Every call has a deadline; a call
    that meets a full queue, an unready server or none is tried up to four times within it.
    One whose connection breaks while a server has it is not: it may be what ended the server.

    Each method raises a `ForwardpassError`, whose class tells why: see `forwardpass.client.errors`.
    """

    def __init__(
        self,
        target: str = DEFAULT_TARGET,
        *,
        timeout: float = DEFAULT_TIMEOUT,
        tls: Tls | None = None,
        token: str | None = None,
        max_message_bytes: int = DEFAULT_MESSAGE_BYTES,
    ) -> None:
        """Prepares to call; the server need not be there yet.

        Args:
            target: host:port, or any name that gRPC resolves, such as "dns:///models:8001", or
                "unix:/run/forwardpass.sock" for a unix-domain socket.
            timeout: Seconds that a call may take, retries included, where the call itself does
                not say.
            tls: How to secure the connection; None sends in the clear.
            token: Sent with every call as `authorization: Bearer TOKEN`. Without `tls` anyone on
                the way can read it.
            max_message_bytes: The largest request to send and answer to take.

        Raises:
            InvalidSetting: `timeout` is not a positive, finite number, `token` not printable ASCII,
                the port of `target` none, or a file of `tls` not what it should be.
            OSError: A file of `tls` cannot be read.
        """
        self._target = check_target(target)
        self._timeout = _checked_timeout(timeout)
        self._metadata = (("authorization", f"Bearer {_checked_token(token)}"),) if token else ()
        self._max_message_bytes = max_message_bytes
        # What a pickle holds.
        self._settings = target, timeout, tls, token, max_message_bytes
        credentials = None if tls is None else tls.credentials()
        self._connection = Connection(partial(open_channel, target, credentials, max_message_bytes))
        self._retries = Retries()
        self._signatures: dict[tuple[str, Version], Signature] = {}
        self._polarity = PolarityCheck()

    def __repr__(self) -> str:
        return f"Client({self._target!r})"

    def __reduce__(self) -> tuple[Callable[..., "Client"], tuple[object, ...]]:
        """Pickles the settings, the token among them; what is unpickled connects anew."""
        return _from_settings, self._settings

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def _methods(self) -> Methods:
        return self._connection.methods

    @property
    def timeout(self) -> float:
        """Seconds that a call may take which says nothing else."""
        return self._timeout

    def close(self) -> None:
        """Closes the connection; calls under way end as `Cancelled`."""
        self._retries.close()
        self._connection.close()

    def predict(
        self,
        model: str,
        inputs: given.Inputs = None,
        *,
        images: given.Images = None,
        invert: bool = False,
        preparation: Preparation | None = None,
        texts: given.Texts = None,
        outputs: list[str] | None = None,
        top_k: int = 0,
        png: bool = False,
        timing: bool = False,
        version: Version = None,
        timeout: float | None = None,
    ) -> results.Prediction:
        """Runs a model.

        Args:
            model: The model's name.
            inputs: Arrays by input name, or one array for a model with one input. Axis 0 counts
                rows where the model's signature is batched. Arrays are sent with the dtype they
                have, but for those of numpy's defaults, float64 and int64, which like lists and
                data frames take the dtype that the model states: floats are rounded to it, and
                integers have to fit.
            images: One picture a row, as paths or bytes of JPEG or PNG files, as PIL images, or as
                uint8 arrays, (height, width) or (height, width, channels); the server resizes them
                as the model's card says. Warns with `PolarityWarning` where one of the first 16 is
                dark on bright and the model learned from bright on dark, or the reverse.
            invert: Whether to send the pictures' negatives, as PNG files.
            preparation: How the server prepares the images, instead of as the model's card says.
            texts: One text a row, for a model with a text input.
            outputs: The outputs to answer with; all, in the signature's order, where None.
            top_k: How many of the likeliest classes to name for each row, at most as many as the
                card has labels.
            png: Whether to answer image outputs as PNG files.
            timing: Whether to tell where the time went.
            version: A version's number, or a label such as "stable"; the newest where None.
            timeout: Seconds the call may take; the client's own where None.
        """
        until = self._until(timeout)
        pictures = given.pictures(images, invert=invert)
        request = pb.PredictRequest(
            model=_reference(model, version),
            inputs=given.tensors(inputs, lambda: self._specs(model, version)),
            images=[picture.data for picture in pictures],
            texts=given.texts(texts),
            outputs=outputs,
            top_k=given.unsigned(top_k, "top_k", 32),
            png=png,
            timing=timing,
            image_preparation=to_preparation(preparation) if preparation else None,
        )
        answer = self._call(self._methods.predict, request, timeout, results.to_prediction)
        self._look_at(pictures, answer, until, preparation, inverted=invert)
        if len(answer.outputs) < 2:
            return answer
        # What came over the wire is in no order.
        order = outputs or [spec.name for spec in self._signature(model, version).outputs]
        return results.ordered(answer, order)

    def embed(
        self,
        model: str,
        inputs: given.Inputs = None,
        *,
        images: given.Images = None,
        invert: bool = False,
        preparation: Preparation | None = None,
        texts: given.Texts = None,
        output: str | None = None,
        normalize: bool = False,
        half_precision: bool = False,
        alone: bool = False,
        timing: bool = False,
        version: Version = None,
        timeout: float | None = None,
    ) -> results.Embeddings:
        """Runs a feature extractor: one vector a row.

        Args:
            model: The model's name.
            inputs: As in `predict`.
            images: As in `predict`.
            invert: As in `predict`.
            preparation: As in `predict`; or how pictures that are given as an array were prepared.
                The vectors' space id tells it.
            texts: As in `predict`.
            output: The embedding output to use; the model's first where None.
            normalize: Whether to scale each vector to Euclidean length 1; a zero vector stays.
            half_precision: Whether to send the vectors as float16: half the bytes, 11 bits.
            alone: Whether the rows run by themselves, gathered with no other request's: for vectors
                that are the same bit for bit whatever else the server does.
            timing: As in `predict`.
            version: As in `predict`.
            timeout: As in `predict`.
        """
        until = self._until(timeout)
        pictures = given.pictures(images, invert=invert)
        request = pb.EmbedRequest(
            model=_reference(model, version),
            inputs=given.tensors(inputs, lambda: self._specs(model, version)),
            images=[picture.data for picture in pictures],
            texts=given.texts(texts),
            output=output or "",
            normalize=normalize,
            half_precision=half_precision,
            alone=alone,
            timing=timing,
            image_preparation=to_preparation(preparation) if preparation else None,
        )
        answer = self._call(self._methods.embed, request, timeout, results.to_embeddings)
        self._look_at(pictures, answer, until, preparation, inverted=invert)
        return answer

    def embed_stream(
        self,
        model: str,
        requests: Iterable[given.Inputs],
        *,
        output: str | None = None,
        normalize: bool = False,
        half_precision: bool = False,
        alone: bool = False,
        preparation: Preparation | None = None,
        version: Version = None,
        timeout: float | None = None,
    ) -> Iterator[results.Embeddings]:
        """Embeds request after request over one connection, and yields their answers in order.

        The next requests are taken and sent while the server works, as far as it lets them. As long
        as the stream is open a version that it names goes on serving, also where another one has
        taken its place.

        Args:
            model: As in `embed`.
            requests: For each what `inputs` of `embed` takes. They are taken on another thread.
            output: As in `embed`.
            normalize: As in `embed`.
            half_precision: As in `embed`.
            alone: As in `embed`.
            preparation: How pictures were prepared that are given as arrays.
            version: As in `embed`.
            timeout: Seconds that all of it may take; the client's own where None. Servers end a
                stream after some minutes.

        Raises:
            ForwardpassError: A request failed, or the stream was lost. It is closed then.
        """
        failed: list[Exception] = []

        def messages() -> Iterator[bytes]:
            try:
                for inputs in requests:
                    request = pb.EmbedRequest(
                        model=_reference(model, version),
                        inputs=given.tensors(inputs, lambda: self._specs(model, version)),
                        output=output or "",
                        normalize=normalize,
                        half_precision=half_precision,
                        alone=alone,
                        image_preparation=to_preparation(preparation) if preparation else None,
                    )
                    yield self._prepare(pb.EmbedStreamRequest(request=request), timeout)[1]
            except Exception as error:  # noqa: BLE001  # raised below, where it is seen
                failed.append(error)

        seconds = self._timeout if timeout is None else _checked_timeout(timeout)
        with self._explained(seconds):
            call = self._methods.embed_stream(messages(), timeout=seconds, metadata=self._metadata)
            try:
                for answer in call:
                    if answer.WhichOneof("result") == "error":
                        raise from_stream_error(answer.error)
                    yield results.to_embeddings(answer.response)
            finally:
                call.cancel()
        if failed:
            raise failed[0]

    def generate(
        self,
        model: str,
        *,
        count: int | None = None,
        seed: int | None = None,
        latents: ArrayLike | None = None,
        class_: int | str | None = None,
        prompt: str | None = None,
        temperature: float | None = None,
        length: int | None = None,
        png: bool = False,
        timing: bool = False,
        version: Version = None,
        timeout: float | None = None,
    ) -> results.Generated:
        """Draws samples from a generator.

        Args:
            model: The model's name.
            count: How many samples, in [1, 1024]; 1 where None, or the rows of `latents`.
            seed: In [0, 2**64): the same seed gives the same samples; drawn by the server, and
                told, where None.
            latents: float32 (count, dimension), instead of a seed.
            class_: The class to draw, by index or by label, for a conditional generator.
            prompt: The text to go on from, for a text generator; at most 4096 bytes. Answers do
                not repeat it.
            temperature: How freely a text generator chooses, in (0, 10]; 1 where None.
            length: Characters that a text generator writes, in [1, 4096]; 256 where None.
            png: Whether to answer image samples as PNG files.
            timing: As in `predict`.
            version: As in `predict`.
            timeout: As in `predict`.
        """
        request = _generate_request(
            _reference(model, version),
            count=count,
            seed=seed,
            latents=latents,
            class_=class_,
            prompt=prompt,
            temperature=temperature,
            length=length,
            png=png,
            timing=timing,
        )
        return self._call(self._methods.generate, request, timeout, results.to_generated)

    def generate_stream(
        self,
        model: str,
        *,
        count: int | None = None,
        seed: int | None = None,
        latents: ArrayLike | None = None,
        class_: int | str | None = None,
        prompt: str | None = None,
        temperature: float | None = None,
        length: int | None = None,
        png: bool = False,
        timing: bool = False,
        version: Version = None,
        timeout: float | None = None,
    ) -> Iterator[tuple[int, results.Generated]]:
        """Draws samples as `generate` does, and yields each part as soon as it is made.

        Args:
            model: As in `generate`.
            count: As in `generate`.
            seed: As in `generate`.
            latents: As in `generate`.
            class_: As in `generate`.
            prompt: As in `generate`.
            temperature: As in `generate`.
            length: As in `generate`.
            png: As in `generate`.
            timing: As in `generate`.
            version: As in `generate`.
            timeout: Seconds that all of it may take; the client's own where None.

        Yields:
            The place of the part's first sample among all, and the part: of a text generator the
            characters with which its texts go on.
        """
        request = _generate_request(
            _reference(model, version),
            count=count,
            seed=seed,
            latents=latents,
            class_=class_,
            prompt=prompt,
            temperature=temperature,
            length=length,
            png=png,
            timing=timing,
        )
        seconds, message = self._prepare(pb.GenerateStreamRequest(request=request), timeout)

        def begin(left: float) -> tuple[Any, pb.GenerateStreamResponse | None]:
            call = self._methods.generate_stream(message, timeout=left, metadata=self._metadata)
            return call, next(call, None)

        with self._explained(seconds):
            call, first = self._retries.call(begin, seconds)
            try:
                for part in itertools.chain([first] if first is not None else [], call):
                    yield part.index, results.to_generated(part.part)
            finally:
                # Where nobody wants the rest, nothing more of it is made.
                call.cancel()

    def models(self, *, timeout: float | None = None) -> list[ModelSummary]:
        """Lists every version in the server's repository, by name, newest first."""
        return self._call(
            self._methods.list_models,
            model_pb.ListModelsRequest(),
            timeout,
            lambda response: to_summaries(response.models),
        )

    def model(self, name: str, version: Version = None, *, timeout: float | None = None) -> Model:
        """Tells everything about one version of a model; the newest where None is named."""
        return self._call(
            self._methods.get_model,
            model_pb.GetModelRequest(model=_reference(name, version)),
            timeout,
            to_model,
        )

    def health(self, model: str | None = None, *, timeout: float | None = None) -> bool:
        """Whether the server, or one of its models, serves at this moment; never retried.

        Raises:
            ModelNotFound: The server has no such model.
            Unavailable: No server is there.
        """
        seconds, message = self._prepare(HealthRequest(value=model or ""), timeout)
        with self._explained(seconds):
            response = self._methods.health(message, timeout=seconds, metadata=self._metadata)
        return response.value == SERVING

    def _specs(self, model: str, version: Version) -> tuple[TensorSpec, ...]:
        return self._signature(model, version).inputs

    def _signature(self, model: str, version: Version) -> Signature:
        """A model's signature: asked for once, since its versions seldom differ in it."""
        signature = self._signatures.get((model, version))
        if signature is None:
            found = self.model(model, version)
            check_loaded(found)
            signature = self._signatures[model, version] = found.signature
        return signature

    def _look_at(
        self,
        pictures: Sequence[given.Picture],
        answer: results.Prediction | results.Embeddings,
        until: float,
        preparation: Preparation | None,
        *,
        inverted: bool,
    ) -> None:
        """Warns of pictures, already answered, that the model is likely to have misread."""
        name, version = answer.model, answer.version
        text = self._polarity.look_at(
            pictures,
            (name, version),
            lambda seconds: self.model(name, version, timeout=seconds).card,
            until - time.monotonic(),
            preparation=preparation,
            inverted=inverted,
        )
        if text:
            # At the line that calls predict or embed.
            warnings.warn(text, PolarityWarning, stacklevel=3)

    def _until(self, timeout: float | None) -> float:
        """When a call that begins now has to have ended, by `time.monotonic`."""
        return time.monotonic() + (self._timeout if timeout is None else timeout)

    def _call(
        self,
        method: "grpc.UnaryUnaryMultiCallable[bytes, Response]",
        request: Message,
        timeout: float | None,
        convert: Callable[[Response], Result],
    ) -> Result:
        seconds, message = self._prepare(request, timeout)

        def make(left: float) -> Response:
            return method(message, timeout=left, metadata=self._metadata)

        with self._explained(seconds):
            return convert(self._retries.call(make, seconds))

    def _prepare(self, request: Message, timeout: float | None) -> tuple[float, bytes]:
        """Returns how many seconds a call may take, and the bytes of its request."""
        seconds = self._timeout if timeout is None else _checked_timeout(timeout)
        message = request.SerializeToString()
        if len(message) > self._max_message_bytes:
            # gRPC would find out too, but could not tell that there is no use in trying again.
            raise MessageTooLarge(
                f"the request takes {len(message)} bytes, and the limit is "
                f"{self._max_message_bytes}: send fewer rows in a call, or raise "
                "max_message_bytes here and on the server"
            )
        return seconds, message

    @contextmanager
    def _explained(self, seconds: float) -> Iterator[None]:
        """Raises what goes wrong with a call as a `ForwardpassError`."""
        try:
            yield
        except grpc.RpcError as error:
            raise from_rpc_error(error, self._target, seconds) from None
        except TensorError as error:
            raise ServerError(f"{self._target} answered with a broken tensor: {error}") from None
        except ValueError:
            # gRPC's word for a channel that another thread has closed meanwhile.
            if self._connection.is_closed:
                raise Cancelled("the client was closed") from None
            raise


def _from_settings(
    target: str, timeout: float, tls: Tls | None, token: str | None, max_message_bytes: int
) -> Client:
    return Client(
        target, timeout=timeout, tls=tls, token=token, max_message_bytes=max_message_bytes
    )


def _generate_request(
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


def _checked_timeout(seconds: float) -> float:
    if not (math.isfinite(seconds) and seconds > 0):
        raise InvalidSetting(f"a timeout is a positive, finite number of seconds, got {seconds}")
    return seconds


def _checked_token(token: str) -> str:
    # gRPC would refuse it at each call, in an error that shows it.
    if not (token.isascii() and token.isprintable()):
        raise InvalidSetting("a token is printable ASCII: does it end in a line break?")
    return token


def _reference(name: str, version: Version) -> model_pb.ModelReference:
    given.check_text(name, "model")
    if version is None:
        return model_pb.ModelReference(name=name)
    if isinstance(version, str):
        given.check_text(version, "version")
        return model_pb.ModelReference(name=name, label=version)
    return model_pb.ModelReference(name=name, version=given.unsigned(version, "version", 63))
