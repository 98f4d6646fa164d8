"""Inputs for every trial of a model: its curve, its independence, its probe.

Golden data are the best example there is. Without any, floating-point elements are random in [0, 1)
and all others zero, which is in the range of every index; extents that may be anything are 1.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from forwardpass.artefact import Golden
from forwardpass.server.onnx.signature import Signature
from forwardpass.wire import Array
from forwardpass.wire.dtypes import STRING

# Makes inputs of any number of rows.
Example = Callable[[int], Mapping[str, Array]]


def example_inputs(signature: Signature, golden: Golden | None) -> Example:
    """Returns what makes inputs of any number of rows: golden ones repeated, else made-up ones."""

    def of_golden(rows: int) -> Mapping[str, Array]:
        assert golden is not None
        order = np.arange(rows) % golden.rows
        return {name: array[order] for name, array in golden.inputs.items()}

    def of_signature(rows: int) -> Mapping[str, Array]:
        random = np.random.default_rng(0)
        return {
            name: made_up_array(spec.type.dtype, (rows, *_closed(spec.shape[1:])), random)
            for name, spec in signature.inputs.items()
        }

    return of_signature if golden is None else of_golden


def probe_inputs(signature: Signature, golden: Golden | None) -> Mapping[str, Array]:
    """Returns inputs that the model is known to take, else some that most graphs take."""
    if signature.batched:
        return example_inputs(signature, golden)(1)
    if golden is not None:
        return golden.inputs
    random = np.random.default_rng(0)
    return {
        name: made_up_array(spec.type.dtype, _closed(spec.shape), random)
        for name, spec in signature.inputs.items()
    }


def made_up_array(
    dtype: np.dtype[Any], shape: tuple[int, ...], random: np.random.Generator | None
) -> Array:
    """Returns made-up elements; all zeros, or empty strings, without a source of random ones."""
    if dtype == STRING.dtype:
        return np.full(shape, "", object)
    if random is None or dtype.kind in "iub":
        return np.zeros(shape, dtype)
    return random.random(shape, np.float32).astype(dtype)


def _closed(extents: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(1 if extent == -1 else extent for extent in extents)
