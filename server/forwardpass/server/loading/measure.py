"""What running a version shows: whether its rows may be gathered, and what that is worth."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import structlog

from forwardpass.server.loading.batch_curve import (
    DEFAULT_MAX_ROWS,
    Batching,
    CurvePoint,
    decide,
    measure_curve,
)
from forwardpass.server.loading.cache import Findings
from forwardpass.server.loading.config import ModelConfig
from forwardpass.server.loading.config_text import CONFIG_FILE
from forwardpass.server.loading.examples import Example, NoExampleError, find_example
from forwardpass.server.loading.golden import GoldenResult
from forwardpass.server.loading.independence import (
    Independence,
    find_independence,
    fixed_axis,
    try_rows,
)
from forwardpass.server.loading.input_values import InputValues, values_of
from forwardpass.server.loading.source import Source
from forwardpass.server.onnx.session import Session
from forwardpass.server.onnx.signature import Signature
from forwardpass.wire import Array

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Measured:
    """What running a version has shown.

    Attributes:
        signature: Its inputs and outputs, with what is known of its rows by now.
        example: Makes inputs that it takes; None where none were found.
        independence: What is known of its rows.
        curve: How long runs take, by their number of rows.
        batching: How its requests are gathered.
    """

    signature: Signature
    example: Example | None
    independence: Independence
    curve: Sequence[CurvePoint]
    batching: Batching


def measure(
    name: str,
    session: Session,
    signature: Signature,
    source: Source,
    config: ModelConfig,
    *,
    has_card: bool,
    golden: GoldenResult | None,
    warmups: Iterable[Mapping[str, Array]],
    known: Findings | None,
) -> Measured:
    """Runs a version, and returns what that has shown.

    That it cannot be run for want of an example is no failure: it serves, one request at a time.

    Args:
        name: The model's name.
        session: Its graph.
        signature: What card, configuration and graph say of it.
        source: Its files.
        config: What its config.pbtxt decides.
        has_card: Whether there is a card.
        golden: How it answered its golden inputs; None where it has none.
        warmups: Inputs that the configuration has it warmed up with.
        known: What an earlier load found out; None for nothing.
    """
    unstated = not has_card and config.max_batch_size is None
    why_not = fixed_axis(session, signature) if unstated else _stated_off(signature, config)
    values = values_of(source)
    trial = _Trial(session, dataclasses.replace(signature, batched=not why_not), source, values)
    refusal = trial.find_example(config, warmups)
    if why_not:
        independence = Independence(is_shown=False, reason=why_not)
    elif golden is not None:
        independence = Independence(
            is_shown=True, rows=golden.rows, difference=golden.row_difference
        )
    elif has_card and config.max_batch_size is None:
        independence = Independence(is_shown=True)
    elif known is not None:
        independence = known.independence
    else:
        independence = trial.find_independence(refusal, is_asked_for=config.dynamic_batching)
    if unstated:
        signature = dataclasses.replace(signature, batched=independence.is_shown)
    curve: Sequence[CurvePoint] = ()
    if signature.batched and trial.example is not None:
        curve = known.curve if known is not None else ()
        curve = curve or measure_curve(session, trial.example, _most(signature, config))
    batching = _decide(signature, config, independence, curve, refusal)
    if config.dynamic_batching and not batching.enabled:
        _log.warning("dynamic_batching_is_off", model=name, reason=batching.reason)
    return Measured(signature, trial.example, independence, curve, batching)


@dataclass(slots=True)
class _Trial:
    """A version that is tried.

    Attributes:
        session: Its graph.
        signature: With a batch axis, if it may have one.
        source: Its files.
        values: What the graph tells of its inputs' values.
        example: Makes inputs that it takes; None where none were found.
    """

    session: Session
    signature: Signature
    source: Source
    values: InputValues
    example: Example | None = None

    def find_example(self, config: ModelConfig, warmups: Iterable[Mapping[str, Array]]) -> str:
        """Finds an example; returns why there is none, empty where there is one."""
        try:
            self.example = find_example(
                self.session,
                self.signature,
                self.source.golden,
                self.values,
                warmups=warmups,
                dims={name: dims for name, _, dims in config.inputs},
            )
        except NoExampleError as error:
            return f"not probed: it takes none of the inputs that were tried: {error}"
        return ""

    def find_independence(self, refusal: str, *, is_asked_for: bool | None) -> Independence:
        """Returns what is known of the rows; where gathering is asked for, by runs alone."""
        if self.example is None:
            return Independence(is_shown=False, reason=refusal)
        if is_asked_for:
            return try_rows(self.session, self.signature, self.example, self.values)
        return find_independence(
            self.session, self.signature, self.source, self.example, self.values
        )


def _stated_off(signature: Signature, config: ModelConfig) -> str:
    if signature.batched:
        return ""
    if config.max_batch_size is None:
        return "stated off: the card says that axis 0 counts no independent rows"
    return f"stated off: max_batch_size is 0 in {CONFIG_FILE}"


def _most(signature: Signature, config: ModelConfig) -> int:
    most = signature.max_rows or DEFAULT_MAX_ROWS
    return most if config.dynamic_batching else min(most, DEFAULT_MAX_ROWS)


def _decide(
    signature: Signature,
    config: ModelConfig,
    independence: Independence,
    curve: Sequence[CurvePoint],
    refusal: str,
) -> Batching:
    most = _most(signature, config)
    is_possible = signature.batched and not independence.is_disproved
    if config.dynamic_batching and is_possible:
        reason = f"{CONFIG_FILE} asks for dynamic_batching"
        if not independence.is_shown:
            reason += f"; {independence.reason}"
        return Batching(enabled=True, max_rows=most, reason=reason)
    if not independence.is_shown:
        return Batching(enabled=False, max_rows=1, reason=independence.reason)
    if not curve:
        reason = refusal or "not measured: no run succeeded"
        return Batching(enabled=False, max_rows=1, reason=reason)
    return decide(curve, most)
