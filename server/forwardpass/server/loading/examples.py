"""Inputs for every trial of a model: in the sandbox, of its curve, of its rows, of its health.

The best there is comes first: golden data, then a warm-up that the configuration asks for, then
made-up elements. Those have the extents that card and configuration state; where any will do, the
first of a few that the graph takes. Floating-point elements are random in [0, 1), integers in the
range that the graph's operators tell, and zero where they tell none.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from math import prod
from typing import Any

import numpy as np

from forwardpass.artefact import Golden
from forwardpass.server.errors import CallError, RunError, RunTooLarge
from forwardpass.server.loading.input_values import InputValues
from forwardpass.server.onnx.session import Session
from forwardpass.server.onnx.signature import Signature, TensorSpec
from forwardpass.wire import Array
from forwardpass.wire.dtypes import STRING

# Makes inputs of any number of rows; of a model that is not batched, the same ones for any.
Example = Callable[[int], Mapping[str, Array]]
# What open extents are guessed to be: what a convolution or a pooling may need, or a picture has.
_GUESSES = (1, 8, 16, 32, 64, 128, 224, 256, 512)
# The most bytes of an input that is made up by guessing.
_MAX_BYTES = 64 << 20


class NoExampleError(Exception):
    """The graph takes none of the examples; the message says what it said of the first."""


def find_example(
    session: Session,
    signature: Signature,
    golden: Golden | None,
    values: InputValues,
    *,
    warmups: Iterable[Mapping[str, Array]] = (),
    dims: Mapping[str, tuple[int, ...]] | None = None,
) -> Example:
    """Returns what makes inputs that the graph takes.

    Args:
        session: The graph.
        signature: What it takes.
        golden: Golden data; None where there are none. They are known to be taken.
        values: What the graph tells of its inputs' values.
        warmups: Inputs that the configuration has the model warmed up with.
        dims: Extents that the configuration states, by input, with or without the batch axis; -1
            for any.

    Raises:
        NoExampleError: It takes none that could be thought of.
    """
    if golden is not None:
        return _repeated(golden.inputs, batched=signature.batched)
    names = list(signature.outputs)
    first: Exception | None = None
    for example in _candidates(signature, values, warmups, dims or {}):
        try:
            session.run(names, example(1))
        except RunTooLarge as error:
            raise NoExampleError(str(error)) from error
        except (CallError, RunError) as error:
            first = first or error
        else:
            return example
    raise NoExampleError(str(first)) from first


def made_up_array(
    dtype: np.dtype[Any],
    shape: tuple[int, ...],
    random: np.random.Generator | None,
    span: tuple[int, int] | None = None,
) -> Array:
    """Returns made-up elements.

    Args:
        dtype: Their type.
        shape: Their number along each axis.
        random: The source of random ones; None for zeros, or empty strings.
        span: The least integer, and the first that is too great; None for zeros.
    """
    if dtype == STRING.dtype:
        return np.full(shape, "", object)
    if random is None:
        return np.zeros(shape, dtype)
    if dtype.kind in "iub":
        if span is None:
            return np.zeros(shape, dtype)
        most = 2 if dtype.kind == "b" else np.iinfo(dtype).max
        return random.integers(span[0], min(span[1], most), shape).astype(dtype)
    return random.random(shape, np.float32).astype(dtype)


def _candidates(
    signature: Signature,
    values: InputValues,
    warmups: Iterable[Mapping[str, Array]],
    dims: Mapping[str, tuple[int, ...]],
) -> Iterator[Example]:
    for inputs in warmups:
        yield _repeated(inputs, batched=signature.batched)
    tried = set()
    for guess in _GUESSES:
        extents = {
            spec.name: _closed(spec, dims.get(spec.name), guess, batched=signature.batched)
            for spec in signature.inputs.values()
        }
        shapes = tuple(extents.values())
        sizes = map(_size, signature.inputs.values(), shapes)
        if shapes not in tried and (guess == 1 or max(sizes, default=0) <= _MAX_BYTES):
            tried.add(shapes)
            yield _made_up(signature, values, extents)


def _repeated(inputs: Mapping[str, Array], *, batched: bool) -> Example:
    def repeat(rows: int) -> Mapping[str, Array]:
        return {name: array[np.arange(rows) % len(array)] for name, array in inputs.items()}

    return repeat if batched else lambda _: inputs


def _made_up(
    signature: Signature, values: InputValues, extents: Mapping[str, tuple[int, ...]]
) -> Example:
    def make(rows: int) -> Mapping[str, Array]:
        random = np.random.default_rng(0)
        return {
            name: made_up_array(
                spec.type.dtype,
                (rows, *extents[name]) if signature.batched else extents[name],
                random,
                values.ranges.get(name),
            )
            for name, spec in signature.inputs.items()
        }

    return make


def _closed(
    spec: TensorSpec, stated: tuple[int, ...] | None, guess: int, *, batched: bool
) -> tuple[int, ...]:
    """Returns extents of an input without the batch axis, if there is one."""
    extents = spec.shape[1:] if batched else spec.shape
    if stated is not None and len(stated) == len(extents) - 1:
        stated = (-1, *stated)
    if stated is None or len(stated) != len(extents):
        stated = extents
    known = (ours if ours != -1 else theirs for ours, theirs in zip(extents, stated, strict=True))
    return tuple(guess if extent == -1 else extent for extent in known)


def _size(spec: TensorSpec, extents: tuple[int, ...]) -> int:
    return prod(extents) * spec.type.dtype.itemsize
