"""Generate and GenerateStream of InferenceService, for samples and for texts."""

import secrets

import numpy as np

from forwardpass.server.errors import InvalidInput
from forwardpass.server.loading.loaded import Loaded
from forwardpass.server.native.samples import Samples, read_samples, sample_bytes
from forwardpass.server.native.text import Texts, read_texts
from forwardpass.server.repository.repository import Repository
from forwardpass.server.rpc.execution import Execution
from forwardpass.server.rpc.inputs import InputReader
from forwardpass.server.rpc.receive import Received, receive
from forwardpass.server.rpc.schema import GENERATE, GENERATE_STREAM
from forwardpass.server.scheduling.job import Answer, Outcome
from forwardpass.server.transport.call import Call
from forwardpass.server.transport.stream_call import StreamCall
from forwardpass.server.transport.task import Future
from forwardpass.v1.inference_service_pb2 import (
    GenerateRequest,
    GenerateResponse,
    GenerateStreamRequest,
    GenerateStreamResponse,
)

MAX_COUNT = 1024
# Rows of one run of a generator.
CHUNK_ROWS = 16


class Generate:
    """Answers Generate and GenerateStream.

    Args:
        repository: The models.
        reader: Makes arrays of requests.
        max_message_bytes: The longest message.
    """

    def __init__(self, repository: Repository, reader: InputReader, max_message_bytes: int) -> None:
        self._repository = repository
        self._reader = reader
        self._max_message_bytes = max_message_bytes

    async def generate(self, call: Call, message: bytes) -> bytes:
        """Answers a GenerateRequest with all samples, or all texts, at once."""
        received = receive(GENERATE, message)
        request = received.head
        with Execution(call, self._repository, request.model, timed=request.timing) as execution:
            asked = await self._read(call, execution, received, request, self._max_message_bytes)
            if isinstance(asked, Texts):
                return await _reply_texts(call, execution, asked)
            return await _reply_samples(call, execution, asked)

    async def generate_stream(self, call: StreamCall, message: bytes) -> None:
        """Answers a GenerateStreamRequest with what each run made, as soon as it is done."""
        received = receive(GENERATE_STREAM, message)
        request = received.head.request
        with Execution(call, self._repository, request.model, timed=request.timing) as execution:
            asked = await self._read(call, execution, received, request, None)
            if isinstance(asked, Texts):
                await _stream_texts(call, execution, asked)
            else:
                await _stream_samples(call, execution, asked)

    def _read(  # each is one thing
        self,
        call: Call,
        execution: Execution,
        received: Received[GenerateRequest] | Received[GenerateStreamRequest],
        request: GenerateRequest,
        most: int | None,
    ) -> Future[Samples | Texts]:
        """Checks a request, and draws what its samples are made of.

        They may have `most` bytes together; None where they are sent in parts.
        """
        loaded = execution.loaded
        execution.check_room()
        rows = _chunk_rows(loaded)
        size = sample_bytes(loaded, request, MAX_COUNT)
        if most is not None and size > most and not request.png:
            raise InvalidInput(
                f"the samples take {size} bytes, but a message has at most {most}; ask for fewer, "
                "or by GenerateStream",
                field="count",
                expected=most,
                got=size,
            )
        # They wait for one another, for a thread that encodes them, and for who reads them.
        self._reader.hold(call, size)

        def draw() -> Samples | Texts:
            if loaded.vocabulary is not None:
                return read_texts(loaded.vocabulary, request, *_drawn(request), rows)
            drawn = None if request.HasField("latents") else _drawn(request)
            samples = read_samples(self._reader, loaded, received, request, drawn, MAX_COUNT, rows)
            _check_count(samples.count)
            return samples

        return call.offload(draw)


async def _reply_samples(call: Call, execution: Execution, samples: Samples) -> bytes:
    answers = [await run for run in samples.run(execution)]
    made = np.concatenate([answer.outputs[samples.output.name] for answer in answers])

    def encode() -> bytes:
        whole = made[: samples.count]
        response = execution.complete(_total(answers), lambda: samples.encode(whole, call))
        return response.SerializeToString()

    return await call.offload(encode) if samples.as_png else encode()


async def _stream_samples(call: StreamCall, execution: Execution, samples: Samples) -> None:
    async def part(start: int, run: Future[Answer]) -> bytes:
        answer = await run

        def encode() -> bytes:
            made = answer.outputs[samples.output.name][: samples.count - start]
            response = execution.complete(answer, lambda: samples.encode(made, call))
            return GenerateStreamResponse(part=response, index=start).SerializeToString()

        return await call.offload(encode) if samples.as_png else encode()

    # Pictures are encoded side by side, but sent in order.
    parts = [
        call.start(part(index * samples.rows, run))
        for index, run in enumerate(samples.run(execution))
    ]
    for encoded in parts:
        await call.send(await encoded)


async def _reply_texts(call: Call, execution: Execution, texts: Texts) -> bytes:
    lines: list[list[str]] = [[] for _ in texts.uniforms]

    async def collect(start: int, characters: list[str], _: Answer) -> None:
        for line, character in enumerate(characters, start):
            lines[line].append(character)

    await texts.write(call, execution, collect)
    response = execution.complete(
        texts.spent, lambda: GenerateResponse(seed=texts.seed, texts=map("".join, lines))
    )
    return response.SerializeToString()


async def _stream_texts(call: StreamCall, execution: Execution, texts: Texts) -> None:
    async def send(start: int, characters: list[str], answer: Answer) -> None:
        part = execution.complete(
            answer, lambda: GenerateResponse(seed=texts.seed, texts=characters)
        )
        # The next step is begun when this one has been sent: who does not read is not written for.
        await call.send(GenerateStreamResponse(part=part, index=start).SerializeToString())

    await texts.write(call, execution, send)


def _drawn(request: GenerateRequest) -> tuple[int, int]:
    """Returns the seed asked for, else a random one, and how many samples to draw from it."""
    count = request.count if request.HasField("count") else 1
    _check_count(count)
    return request.seed if request.HasField("seed") else secrets.randbits(64), count


def _check_count(count: int) -> None:
    if not 1 <= count <= MAX_COUNT:
        raise InvalidInput(
            f"{count} samples, but a request may ask for 1 to {MAX_COUNT}",
            field="count",
            expected=MAX_COUNT,
            got=count,
        )


def _chunk_rows(loaded: Loaded) -> int:
    """Returns how many rows a run has."""
    if not loaded.signature.batched:
        return 1
    return min(CHUNK_ROWS, loaded.signature.max_rows or CHUNK_ROWS)


def _total(parts: list[Answer]) -> Answer:
    """Returns runs as one answer, for its times."""
    return Answer(
        Outcome(
            {},
            rows=max(part.run.rows for part in parts),
            seconds=sum(part.run.seconds for part in parts),
        ),
        start=0,
        rows=0,
        queue_seconds=min(part.queue_seconds for part in parts),
    )
