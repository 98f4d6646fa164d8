"""The methods of both clients, each written once: see `steps`."""

from functools import partial

import grpc
from numpy.typing import ArrayLike

from forwardpass.client import inputs as given
from forwardpass.client import results
from forwardpass.client.engine import EMBED, PREDICT, Build, Engine, Rows, at_once
from forwardpass.client.errors import ForwardpassError
from forwardpass.client.methods import SERVING, HealthRequest
from forwardpass.client.models import Model, ModelSummary, Version, to_model, to_summaries
from forwardpass.client.requests import (
    embed_request,
    generate_request,
    plain_predict_request,
    predict_request,
    to_reference,
)
from forwardpass.client.settings import Metadata
from forwardpass.client.steps import Flow, Items, Many, Stream
from forwardpass.v1 import inference_service_pb2 as pb
from forwardpass.v1 import model_service_pb2 as model_pb
from forwardpass.wire import Preparation


class Operations(Engine):
    """What `Client` and `AsyncClient` do."""

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
        split: bool = False,
        version: Version = None,
        timeout: float | None = None,
        metadata: Metadata | None = None,
    ) -> Flow[results.Prediction]:
        """Runs a model.

        Args:
            model: The model's name.
            inputs: Arrays by input name, one array for a model with one input, or a data frame; see
                `forwardpass.client.inputs`. Axis 0 counts rows where the model's signature is
                batched. Named arrays of float32 and uint8, and texts, go as they are; all others
                take the dtype that the model states, where no value changes but by rounding.
            images: One picture a row, as paths, bytes or open binary files of JPEG or PNG, as PIL
                images, or as uint8 arrays of numpy or torch, (height, width) or with channels; the
                server resizes them as the model's card says. Warns with `PolarityWarning` where one
                of the first 16 is dark on bright and the model learned from bright on dark, or the
                reverse.
            invert: Whether to send the pictures' negatives, as PNG files.
            preparation: How the server prepares the images, instead of as the model's card says.
            texts: One text a row, for a model with a text input.
            outputs: The outputs to answer with; all, in the signature's order, where None.
            top_k: How many of the likeliest classes to name for each row, at most as many as the
                card has labels.
            png: Whether to answer image outputs as PNG files.
            timing: Whether to tell where the time went.
            split: Whether to send rows in several calls, one after the other, where they are more
                than the model or a message takes; for models whose signature is batched. The
                answer's timing is None.
            version: A version's number, or a label such as "stable"; the newest where None.
            timeout: Seconds the call may take; the client's own where None.
            metadata: Sent with the call beside the client's own, such as an `x-request-id`, which
                stands in the server's log and in errors.
        """
        build: Build
        if outputs or top_k or png or timing or preparation:
            build = partial(
                predict_request,
                outputs=outputs,
                top_k=top_k,
                png=png,
                timing=timing,
                preparation=preparation,
            )
        else:
            build = plain_predict_request
        answer = yield from self.run(
            PREDICT,
            build,
            model,
            Rows(inputs, images, texts, invert=invert, preparation=preparation),
            split=split,
            version=version,
            timeout=timeout,
            metadata=metadata,
        )
        if len(answer.outputs) < 2:
            return answer
        # What came over the wire is in no order.
        if outputs is None:
            signature = yield from self.signature(model, version)
            outputs = [spec.name for spec in signature.outputs]
        return results.ordered(answer, outputs)

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
        split: bool = False,
        version: Version = None,
        timeout: float | None = None,
        metadata: Metadata | None = None,
    ) -> Flow[results.Embeddings]:
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
            split: As in `predict`.
            version: As in `predict`.
            timeout: As in `predict`.
            metadata: As in `predict`.
        """
        build = partial(
            embed_request,
            output=output,
            normalize=normalize,
            half_precision=half_precision,
            alone=alone,
            timing=timing,
            preparation=preparation,
        )
        answer = yield from self.run(
            EMBED,
            build,
            model,
            Rows(inputs, images, texts, invert=invert, preparation=preparation),
            split=split,
            version=version,
            timeout=timeout,
            metadata=metadata,
        )
        return answer

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
        metadata: Metadata | None = None,
    ) -> Flow[results.Generated]:
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
            metadata: As in `predict`.
        """
        request = generate_request(
            to_reference(model, version),
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
        answer = yield from self.call("generate", request, timeout, metadata, results.to_generated)
        return answer

    def models(
        self, *, timeout: float | None = None, metadata: Metadata | None = None
    ) -> Flow[list[ModelSummary]]:
        """Lists every version in the server's repository, by name, newest first."""
        request = model_pb.ListModelsRequest()
        answer = yield from self.call(
            "list_models", request, timeout, metadata, lambda found: to_summaries(found.models)
        )
        return answer

    def model(
        self,
        name: str,
        version: Version = None,
        *,
        timeout: float | None = None,
        metadata: Metadata | None = None,
    ) -> Flow[Model]:
        """Tells everything about one version of a model; the newest where None is named."""
        request = model_pb.GetModelRequest(model=to_reference(name, version))
        answer = yield from self.call("get_model", request, timeout, metadata, to_model)
        return answer

    def health(
        self,
        model: str | None = None,
        *,
        timeout: float | None = None,
        metadata: Metadata | None = None,
    ) -> Flow[bool]:
        """Whether the server, or one of its models, serves at this moment; never retried.

        Raises:
            ModelNotFound: The server has no such model.
            Unavailable: No server is there.
        """
        call = self.to_call("health", HealthRequest(value=model or ""), timeout, metadata)
        try:
            response = yield call
        except grpc.RpcError as error:
            raise self.explain(error, call.seconds) from None
        return bool(response.value == SERVING)

    def predict_stream(
        self,
        model: str,
        requests: Items[given.Inputs],
        *,
        outputs: list[str] | None = None,
        top_k: int = 0,
        png: bool = False,
        timing: bool = False,
        preparation: Preparation | None = None,
        version: Version = None,
        timeout: float | None = None,
        metadata: Metadata | None = None,
    ) -> Stream[results.Prediction]:
        """Predicts request after request over one connection, and yields their answers in order.

        The next requests are taken and sent while the server works, as far as it lets them. The
        state of a step model is carried from one request to the next. As long as the stream is open
        a version that it names goes on serving, also where another one has taken its place.

        Args:
            model: As in `predict`.
            requests: For each what `inputs` of `predict` takes. `Client` takes them on another
                thread; to `AsyncClient` they may come asynchronously.
            outputs: As in `predict`.
            top_k: As in `predict`.
            png: As in `predict`.
            timing: As in `predict`.
            preparation: How pictures were prepared that are given as arrays.
            version: As in `predict`.
            timeout: Seconds that all of it may take; the client's own where None. Servers end a
                stream after some minutes.
            metadata: As in `predict`.

        Raises:
            ForwardpassError: A request failed, or the stream was lost. It is closed then.
        """
        build = partial(
            predict_request,
            outputs=outputs,
            top_k=top_k,
            png=png,
            timing=timing,
            preparation=preparation,
        )
        return self.stream(
            PREDICT,
            build,
            model,
            requests,
            order=outputs,
            version=version,
            timeout=timeout,
            metadata=metadata,
        )

    def embed_stream(
        self,
        model: str,
        requests: Items[given.Inputs],
        *,
        output: str | None = None,
        normalize: bool = False,
        half_precision: bool = False,
        alone: bool = False,
        timing: bool = False,
        preparation: Preparation | None = None,
        version: Version = None,
        timeout: float | None = None,
        metadata: Metadata | None = None,
    ) -> Stream[results.Embeddings]:
        """Embeds request after request over one connection, and yields their answers in order.

        Args:
            model: As in `embed`.
            requests: As in `predict_stream`.
            output: As in `embed`.
            normalize: As in `embed`.
            half_precision: As in `embed`.
            alone: As in `embed`.
            timing: As in `embed`.
            preparation: How pictures were prepared that are given as arrays.
            version: As in `embed`.
            timeout: As in `predict_stream`.
            metadata: As in `predict`.

        Raises:
            ForwardpassError: A request failed, or the stream was lost. It is closed then.
        """
        build = partial(
            embed_request,
            output=output,
            normalize=normalize,
            half_precision=half_precision,
            alone=alone,
            timing=timing,
            preparation=preparation,
        )
        return self.stream(
            EMBED,
            build,
            model,
            requests,
            order=None,
            version=version,
            timeout=timeout,
            metadata=metadata,
        )

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
        metadata: Metadata | None = None,
    ) -> Stream[tuple[int, results.Generated]]:
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
            metadata: As in `predict`.

        Yields:
            The place of the part's first sample among all, and the part: of a text generator the
            characters with which its texts go on.
        """
        request = generate_request(
            to_reference(model, version),
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
        call = self.to_call(
            "generate_stream", pb.GenerateStreamRequest(request=request), timeout, metadata
        )
        return Stream(
            call.method,
            None,
            lambda _: at_once(call.message),
            lambda part: (part.index, results.to_generated(part.part)),
            call.seconds,
            call.metadata,
        )

    def predict_many(
        self,
        model: str,
        inputs: Items[given.Inputs] | None = None,
        *,
        images: Items[given.Image] | None = None,
        invert: bool = False,
        preparation: Preparation | None = None,
        texts: Items[str] | None = None,
        outputs: list[str] | None = None,
        top_k: int = 0,
        png: bool = False,
        version: Version = None,
        timeout: float | None = None,
        metadata: Metadata | None = None,
    ) -> Many[results.Prediction | ForwardpassError]:
        """Predicts any number of rows, and yields for each, in order, its answer or its error.

        Rows are gathered into requests, of which several are under way over a stream; only these
        are held. Where one is refused, its rows are sent again one by one, so that each gets its
        own error; where a connection breaks, the rows that a server had get that error, and the
        others go on over the next one.

        Args:
            model: As in `predict`.
            inputs: A row each: what `inputs` of `predict` takes, without axis 0. Rows of a model
                that is not batched are whole requests.
            images: A picture each, as in `predict`.
            invert: As in `predict`.
            preparation: As in `predict`.
            texts: A text each.
            outputs: As in `predict`.
            top_k: As in `predict`.
            png: As in `predict`.
            version: As in `predict`.
            timeout: Seconds that a request may take to be answered; the client's own where None.
            metadata: As in `predict`.

        Yields:
            A prediction of one row, or the error instead.

        Raises:
            ForwardpassError: The model cannot be asked, or no server is there any more.
        """
        build = partial(
            predict_request,
            outputs=outputs,
            top_k=top_k,
            png=png,
            timing=False,
            preparation=preparation,
        )
        return self.many(
            PREDICT,
            build,
            model,
            Rows(inputs, images, texts, invert=invert, preparation=preparation),
            order=outputs,
            version=version,
            timeout=timeout,
            metadata=metadata,
        )

    def embed_many(
        self,
        model: str,
        inputs: Items[given.Inputs] | None = None,
        *,
        images: Items[given.Image] | None = None,
        invert: bool = False,
        preparation: Preparation | None = None,
        texts: Items[str] | None = None,
        output: str | None = None,
        normalize: bool = False,
        half_precision: bool = False,
        alone: bool = False,
        version: Version = None,
        timeout: float | None = None,
        metadata: Metadata | None = None,
    ) -> Many[results.Embeddings | ForwardpassError]:
        """Embeds any number of rows, and yields for each, in order, its vector or its error.

        See `predict_many`. Folders of files, and what has to survive anything, are for
        `forwardpass embed`.

        Args:
            model: As in `embed`.
            inputs: As in `predict_many`.
            images: As in `predict_many`.
            invert: As in `embed`.
            preparation: As in `embed`.
            texts: As in `predict_many`.
            output: As in `embed`.
            normalize: As in `embed`.
            half_precision: As in `embed`.
            alone: As in `embed`.
            version: As in `embed`.
            timeout: As in `predict_many`.
            metadata: As in `predict`.

        Yields:
            The vector of one row, (1, dimension), or the error instead.

        Raises:
            ForwardpassError: The model cannot be asked, or no server is there any more.
        """
        build = partial(
            embed_request,
            output=output,
            normalize=normalize,
            half_precision=half_precision,
            alone=alone,
            timing=False,
            preparation=preparation,
        )
        return self.many(
            EMBED,
            build,
            model,
            Rows(inputs, images, texts, invert=invert, preparation=preparation),
            order=None,
            version=version,
            timeout=timeout,
            metadata=metadata,
        )
