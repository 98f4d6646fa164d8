"""The tensors of a request, of arrays as people have them."""

from collections.abc import Callable, Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from forwardpass.client.card import TensorSpec
from forwardpass.client.errors import InvalidInput
from forwardpass.client.inputs import dtypes, frames
from forwardpass.client.inputs.arrays import as_array
from forwardpass.client.inputs.texts import check_text
from forwardpass.v1 import tensor_pb2
from forwardpass.wire import Array, fill_tensor, to_tensor

# float32 and uint8.
_AS_GIVEN = "fB"
# Arrays by input name, or the one array of a model with one input. An array is numpy's, torch's,
# Arrow's or any with `__array__` or `__dlpack__`; a column of a data frame; or a list of numbers,
# texts or arrays. A data frame of pandas, polars or Arrow has a column for each input, or is the
# matrix of its columns for a model with one.
Inputs: TypeAlias = Mapping[str, ArrayLike] | ArrayLike | None


def to_arrays(inputs: Inputs, specs: Callable[[], tuple[TensorSpec, ...]]) -> dict[str, Array]:
    """Returns the arrays to send, by input name.

    Args:
        inputs: What the caller gave. With names it is cast as `as_typed` says; without, always to
            what the model states.
        specs: Asks what the model's inputs are; called only where that must be known.

    Raises:
        InvalidInput: A name is missing or unknown, or values do not fit the input's dtype.
    """
    if inputs is None:
        return {}
    if not isinstance(inputs, Mapping):
        return _without_names(inputs, specs())
    arrays = {}
    for name, value in inputs.items():
        if not isinstance(name, str):
            raise InvalidInput(f"inputs are named by str, expected no {name!r}", field="inputs")
        if not name.isascii():
            check_text(name, "inputs")
        arrays[name] = as_typed(name, value, specs)
    return arrays


def fill(tensors: MutableMapping[str, tensor_pb2.Tensor], arrays: Mapping[str, Array]) -> None:
    """Puts arrays in the tensors of a request, by input name.

    Raises:
        InvalidInput: No tensor can hold an array.
    """
    for name, array in arrays.items():
        try:
            fill_tensor(tensors[name], array)
        except (TypeError, ValueError, OverflowError) as error:
            field = f"inputs.{name}"
            raise InvalidInput(f"{field}: {error}", field=field) from None


def latents(given: ArrayLike | None) -> tensor_pb2.Tensor | None:
    """Returns a generator's latents as float32, which all of them are.

    Raises:
        InvalidInput: They are no numbers.
    """
    if given is None:
        return None
    with _explained("latents"):
        return to_tensor(dtypes.cast(as_array(given), "float32"))


def as_typed(name: str, value: ArrayLike, specs: Callable[[], tuple[TensorSpec, ...]]) -> Array:
    """Returns an input as an array of the dtype that it is sent with.

    Arrays of float32 and of uint8, and texts, go as they are. All others take the dtype that the
    model states, as `dtypes.cast` does it.

    Args:
        name: The input's.
        value: An array, a list or a data frame.
        specs: Gets the model's inputs; called for what does not go as it is.

    Raises:
        InvalidInput: The dtype that the model states has no place for the values.
    """
    if type(value) is np.ndarray and value.dtype.char in _AS_GIVEN:
        # Most are, and nothing else has to be looked at.
        return value
    if frames.is_frame(value):
        return _as_stated(_spec(name, specs()), value)
    with _explained(f"inputs.{name}"):
        array = as_array(value)
    return array if dtypes.goes_as_given(array) else _as_stated(_spec(name, specs()), array)


def _without_names(inputs: ArrayLike, specs: tuple[TensorSpec, ...]) -> dict[str, Array]:
    if len(specs) == 1 or not frames.is_frame(inputs):
        only = _only_input(specs)
        return {only.name: _as_stated(only, inputs)}
    columns = frames.by_name(frames.columns(inputs), [spec.name for spec in specs])
    return {spec.name: _as_input(spec, columns[spec.name]) for spec in specs}


def _only_input(specs: tuple[TensorSpec, ...]) -> TensorSpec:
    if len(specs) != 1:
        names = ", ".join(spec.name for spec in specs)
        raise InvalidInput(
            f"one array was given, but the model takes {len(specs)} inputs ({names}): "
            "give a mapping from their names to arrays",
            field="inputs",
        )
    return specs[0]


def _spec(name: str, specs: tuple[TensorSpec, ...]) -> TensorSpec:
    spec = next((spec for spec in specs if spec.name == name), None)
    if spec is None:
        names = ", ".join(spec.name for spec in specs)
        raise InvalidInput(
            f"the model has no input {name!r}: it takes {names}", field=f"inputs.{name}"
        )
    return spec


def _as_stated(spec: TensorSpec, value: ArrayLike) -> Array:
    """Returns an array, or the matrix of a data frame, with the dtype that the model states."""
    with _explained(f"inputs.{spec.name}"):
        if frames.is_frame(value):
            return _matrix(spec, frames.columns(value))
        return dtypes.cast(as_array(value), spec.dtype)


def _as_input(spec: TensorSpec, column: ArrayLike) -> Array:
    """Returns a column as one of several inputs: (rows,), or (rows, 1) where the model says so."""
    array = _as_stated(spec, column)
    takes_column = len(spec.shape) == 2 and spec.shape[1] in (-1, 1)
    return array[:, np.newaxis] if array.ndim == 1 and takes_column else array


def _matrix(spec: TensorSpec, frame: list[tuple[str, Any]]) -> Array:
    """Returns (rows, columns); a single column of rows alone where the model takes one axis."""
    if not frame:
        raise ValueError("the data frame has no columns")
    arrays = []
    for name, column in frame:
        try:
            arrays.append(dtypes.cast(as_array(column), spec.dtype))
        except (TypeError, ValueError) as error:
            raise ValueError(f"column {name!r}: {error}") from None
        if arrays[-1].shape != arrays[0].shape:
            raise ValueError(
                f"column {name!r} has shape {arrays[-1].shape}, and column {frame[0][0]!r} has "
                f"{arrays[0].shape}: the columns of a matrix have the same shape"
            )
    if len(arrays) == 1 and (arrays[0].ndim > 1 or len(spec.shape) == 1):
        return arrays[0]
    return np.stack(arrays, axis=1)


@contextmanager
def _explained(field: str) -> Iterator[None]:
    """Raises what is wrong with values as InvalidInput, with the field at fault."""
    try:
        yield
    except (TypeError, ValueError, OverflowError) as error:
        raise InvalidInput(f"{field}: {error}", field=field) from None
