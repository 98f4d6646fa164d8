"""What a text generator writes for a call: a character a step, each step a job of its own.

The jobs of all calls wait in the model's one queue, so steps of several texts share runs, other
calls come between them, and deadlines and cancellations are honoured at each. The next step of a
streamed text is begun when the last character has been sent: who does not read is not written for.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from numpy.typing import NDArray

from forwardpass.artefact import draw_uniforms
from forwardpass.server.errors import InvalidInput, quote
from forwardpass.server.loading.loaded import Loaded
from forwardpass.server.loading.vocabulary import Vocabulary
from forwardpass.server.native.state import ModelState
from forwardpass.server.rpc.execution import Execution
from forwardpass.server.scheduling.job import Answer, Outcome
from forwardpass.server.transport.call import Call
from forwardpass.v1.inference_service_pb2 import (
    GenerateRequest,
    GenerateResponse,
    GenerateStreamResponse,
)
from forwardpass.wire import Array

MAX_LENGTH = 4096
MAX_PROMPT_BYTES = 4096
# Characters of all texts of a request.
MAX_CHARACTERS = 1 << 16
MAX_TEMPERATURE = 10
_LENGTH = 256

Numbers = NDArray[np.int64]
# Takes the number of the first text that goes on, how each of them does, and the step's answer.
Then = Callable[[int, list[str], Answer], None]


@dataclass(frozen=True, slots=True)
class Texts:
    """The texts that a request asks for.

    Attributes:
        execution: Runs the model.
        loaded: The model.
        vocabulary: Its characters.
        prompt: The numbers of the characters to read first, at least one.
        temperature: What logits are divided by.
        uniforms: What each character is chosen by: (texts, characters), in [0, 1).
        seed: What those were drawn from.
        rows: The most texts of one job.
        spent: Where the time of all steps so far went.
    """

    execution: Execution
    loaded: Loaded
    vocabulary: Vocabulary
    prompt: Numbers
    temperature: float
    uniforms: NDArray[np.float64]
    seed: int
    rows: int
    spent: Answer = field(default_factory=lambda: Answer(Outcome({}, 0, 0.0), 0, 0, 0.0))

    def reply(self) -> None:
        """Writes all texts, and ends the call with them."""
        texts: list[list[str]] = [[] for _ in self.uniforms]
        left = self.uniforms.size

        def collect(start: int, characters: list[str], _: Answer) -> None:
            nonlocal left
            for text, character in enumerate(characters, start):
                texts[text].append(character)
            left -= len(characters)
            if not left:
                whole = ["".join(text) for text in texts]
                self.execution.reply(
                    self.spent, lambda: GenerateResponse(seed=self.seed, texts=whole)
                )

        _Reading(self, collect).read(0)

    def send(self, call: Call) -> None:
        """Writes all texts, sends each character as it is chosen, and ends the call."""
        left = self.uniforms.size

        def send(start: int, characters: list[str], answer: Answer) -> None:
            nonlocal left
            part = self.execution.complete(
                answer, lambda: GenerateResponse(seed=self.seed, texts=characters)
            )
            call.send(GenerateStreamResponse(part=part, index=start).SerializeToString())
            left -= len(characters)
            if not left:
                call.finish()

        _Reading(self, send).read(0)

    def step(
        self, tokens: Numbers, memory: ModelState, then: Callable[[Array, Answer], None]
    ) -> None:
        """Has the model read a character a row; `then` takes its logits, and the answer."""
        signature, logits = self.loaded.signature, self.vocabulary.logits
        inputs: dict[str, Array] = {self.vocabulary.token: tokens}
        memory.recall(signature, inputs)

        def answered(answer: Answer) -> None:
            memory.keep(signature, answer.outputs)
            self._count(answer)
            then(answer.outputs[logits], answer)

        outputs = memory.add_outputs(signature, (logits,))
        self.execution.run(inputs, len(tokens), outputs, answered)

    def _count(self, answer: Answer) -> None:
        self.spent.run.rows = max(self.spent.run.rows, answer.run.rows)
        self.spent.run.seconds += answer.run.seconds
        self.spent.queue_seconds += answer.queue_seconds


@dataclass(frozen=True, slots=True)
class _Reading:
    """The prompt, read once for all texts before they are begun.

    Attributes:
        texts: What it is of.
        then: Takes each step's characters.
        memory: The state, of one row.
    """

    texts: Texts
    then: Then
    memory: ModelState = field(default_factory=ModelState)

    def read(self, at: int) -> None:
        """Reads the prompt from a place on, and then writes."""
        tokens = self.texts.prompt[at : at + 1]
        self.texts.step(tokens, self.memory, partial(self._go_on, at + 1))

    def _go_on(self, at: int, logits: Array, answer: Answer) -> None:
        texts = self.texts
        if at < len(texts.prompt):
            self.read(at)
            return
        for start in range(0, len(texts.uniforms), texts.rows):
            rows = min(texts.rows, len(texts.uniforms) - start)
            lines = _Lines(texts, start, self.memory.repeated(rows), self.then)
            lines.write(0, np.repeat(logits, rows, axis=0), answer)


@dataclass(frozen=True, slots=True)
class _Lines:
    """Some of the texts, written side by side: one job a step.

    Attributes:
        texts: What they are of.
        start: The number of the first.
        memory: The states of all.
        then: Takes each step's characters.
    """

    texts: Texts
    start: int
    memory: ModelState
    then: Then

    def write(self, at: int, logits: Array, answer: Answer) -> None:
        """Chooses the characters at a place, and has the next ones scored if there are any."""
        texts = self.texts
        uniforms = texts.uniforms[self.start : self.start + len(logits), at]
        chosen = choose(logits, texts.temperature, uniforms)
        self.then(self.start, [texts.vocabulary.characters[one] for one in chosen], answer)
        if at + 1 < texts.uniforms.shape[1]:
            texts.step(chosen, self.memory, partial(self.write, at + 1))


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


def read_request(  # noqa: PLR0917  # each is one thing
    request: GenerateRequest,
    loaded: Loaded,
    vocabulary: Vocabulary,
    execution: Execution,
    count: int,
    seed: int,
    rows: int,
) -> Texts:
    """Checks what a request says of texts, and draws the numbers by which they are chosen.

    Args:
        request: What is asked for.
        loaded: The model.
        vocabulary: Its characters.
        execution: Runs it.
        count: How many texts, checked.
        seed: What to draw from.
        rows: The most texts of one job.

    Raises:
        InvalidInput: A prompt that is too long or has a character that the model does not know,
            or a temperature or length out of range.
    """
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
    return Texts(execution, loaded, vocabulary, prompt, temperature, uniforms, seed, rows)


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
