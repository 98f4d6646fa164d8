"""What a text generator writes for a call: a character a step, each step a job of its own.

The jobs of all calls wait in the model's one queue, so steps of several texts share runs, other
calls come between them, and deadlines and cancellations are honoured at each.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from forwardpass.artefact import draw_uniforms
from forwardpass.server.errors import InvalidInput, quote
from forwardpass.server.loading.vocabulary import Vocabulary
from forwardpass.server.native.state import ModelState
from forwardpass.server.rpc.execution import Execution
from forwardpass.server.scheduling.job import Answer, Outcome
from forwardpass.server.transport.call import Call
from forwardpass.v1.inference_service_pb2 import GenerateRequest
from forwardpass.wire import Array

MAX_LENGTH = 4096
MAX_PROMPT_BYTES = 4096
# Characters of all texts of a request.
MAX_CHARACTERS = 1 << 16
MAX_TEMPERATURE = 10
_LENGTH = 256

Numbers = NDArray[np.int64]
# Takes the number of the first text that goes on, how each of them does, and the step's answer.
Emit = Callable[[int, list[str], Answer], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Texts:
    """The texts that a request asks for.

    Attributes:
        vocabulary: The model's characters.
        prompt: The numbers of the characters to read first, at least one.
        temperature: What logits are divided by.
        uniforms: What each character is chosen by: (texts, characters), in [0, 1).
        seed: What those were drawn from.
        rows: The most texts of one job.
        spent: Where the time of all steps so far went.
    """

    vocabulary: Vocabulary
    prompt: Numbers
    temperature: float
    uniforms: NDArray[np.float64]
    seed: int
    rows: int
    spent: Answer = field(default_factory=lambda: Answer(Outcome({}, 0, 0.0), 0, 0, 0.0))

    async def write(self, call: Call, execution: Execution, emit: Emit) -> None:
        """Reads the prompt, once for all texts, and writes them.

        Args:
            call: Who asks.
            execution: Runs the model.
            emit: Takes each step's characters; the next step of those texts waits for it.
        """
        state = ModelState()
        for number in self.prompt:
            logits, answer = await self._step(execution, np.array([number]), state)
        # Each group writes beside the others.
        groups = []
        for start in range(0, len(self.uniforms), self.rows):
            rows = min(self.rows, len(self.uniforms) - start)
            states, scores = state.repeated(rows), np.repeat(logits, rows, axis=0)
            group = self._write_group(execution, start, states, scores, answer, emit)
            groups.append(call.start(group))
        for written in groups:
            await written

    async def _write_group(  # noqa: PLR0917  # each is one thing
        self,
        execution: Execution,
        start: int,
        state: ModelState,
        logits: Array,
        answer: Answer,
        emit: Emit,
    ) -> None:
        """Writes texts side by side, one job a step.

        Args:
            execution: Runs the model.
            start: The number of the first.
            state: The states of all.
            logits: What scores the first character of each.
            answer: What they came with.
            emit: As for `write`.
        """
        uniforms = self.uniforms[start : start + len(logits)]
        last = uniforms.shape[1] - 1
        for place in range(last + 1):
            chosen = choose(logits, self.temperature, uniforms[:, place])
            await emit(start, [self.vocabulary.characters[one] for one in chosen], answer)
            if place < last:
                logits, answer = await self._step(execution, chosen, state)

    async def _step(
        self, execution: Execution, tokens: Numbers, state: ModelState
    ) -> tuple[Array, Answer]:
        """Has the model read a character a row; returns the logits of the next, and the answer."""
        signature, logits = execution.loaded.signature, self.vocabulary.logits
        inputs: dict[str, Array] = {self.vocabulary.token: tokens}
        state.recall(signature, inputs)
        outputs = state.add_outputs(signature, (logits,))
        answer = await execution.run(inputs, len(tokens), outputs)
        state.keep(signature, answer.outputs)
        run = self.spent.run
        run.rows = max(run.rows, answer.run.rows)
        run.seconds += answer.run.seconds
        self.spent.queue_seconds += answer.queue_seconds
        return answer.outputs[logits], answer


def choose(logits: Array, temperature: float, uniforms: NDArray[np.float64]) -> Numbers:
    """Returns a number a row, drawn from the softmax of logits / temperature.

    Args:
        logits: (rows, numbers).
        temperature: Above 0; the nearer to 0, the surer the greatest is chosen.
        uniforms: In [0, 1): where in the cumulative distribution each is taken (rows).
    """
    scores = logits.astype(np.float64)
    scores -= scores.max(axis=1, keepdims=True)
    sums = np.exp(scores / temperature).cumsum(axis=1)
    below = sums <= (uniforms * sums[:, -1])[:, None]
    # Rounding may put a variate next to 1 on the very end.
    chosen: Numbers = np.minimum(below.sum(axis=1), logits.shape[1] - 1)
    return chosen


def read_texts(
    vocabulary: Vocabulary, request: GenerateRequest, seed: int, count: int, rows: int
) -> Texts:
    """Checks a request for texts, and draws the numbers by which they are chosen.

    Args:
        vocabulary: The model's characters.
        request: The request.
        seed: What to draw from.
        count: How many texts.
        rows: The most texts of one job.

    Raises:
        InvalidInput: An option that is not for texts, a prompt that is too long or has a character
            that the model does not know, or a temperature or length out of range.
    """
    for other in ("latents", "class_index", "class_label"):
        if request.HasField(other):
            raise InvalidInput(f"{other} is given, but the model generates text", field=other)
    if request.png:
        raise InvalidInput("png is given, but the samples are no images", field="png")
    length = request.length if request.HasField("length") else _LENGTH
    if not 1 <= length <= MAX_LENGTH:
        raise InvalidInput(
            f"a length of {length}, but a text may have 1 to {MAX_LENGTH} characters",
            field="length",
            expected=MAX_LENGTH,
            got=length,
        )
    if count * length > MAX_CHARACTERS:
        raise InvalidInput(
            f"{count} texts of {length} characters are {count * length}, but a request may ask "
            f"for {MAX_CHARACTERS}; ask for fewer or shorter ones",
            field="length",
            expected=MAX_CHARACTERS,
            got=count * length,
        )
    temperature = request.temperature if request.HasField("temperature") else 1.0
    if not 0 < temperature <= MAX_TEMPERATURE:
        raise InvalidInput(
            f"a temperature of {temperature:g}, but it must be above 0 and at most "
            f"{MAX_TEMPERATURE}",
            field="temperature",
        )
    prompt = _prompt(request.prompt, vocabulary)
    uniforms = draw_uniforms(seed, count, length)
    return Texts(vocabulary, prompt, temperature, uniforms, seed, rows)


def _prompt(text: str, vocabulary: Vocabulary) -> Numbers:
    size = len(text.encode())
    if size > MAX_PROMPT_BYTES:
        raise InvalidInput(
            f"a prompt of {size} bytes, but it may have {MAX_PROMPT_BYTES}",
            field="prompt",
            expected=MAX_PROMPT_BYTES,
            got=size,
        )
    known = "".join(vocabulary.characters)
    for place, character in enumerate(text):
        if character not in known:
            raise InvalidInput(
                f"the prompt has {character!r} at place {place} (from 0), which the model does not "
                f"know; its {len(known)} characters are {quote(known)}",
                field="prompt",
                expected=known,
                got=character,
            )
    # Without a prompt a text begins as after the first label.
    return vocabulary.numbers(text or known[0])
