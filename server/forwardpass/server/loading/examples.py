"""Inputs for every trial of a model: its curve, its independence, its probe, its warm-up.

Golden data are the best example there is. Without any, floating-point elements are random in [0, 1)
and all others zero, which is in the range of every index; extents that may be anything are 1.
"""

from collections.abc import Callable, Mapping
from math import prod
from typing import Any

import numpy as np

from forwardpass.artefact import Golden
from forwardpass.server.loading.config import CONFIG_FILE, ConfigError, Warmup
from forwardpass.server.loading.files import NamedFile, RepositoryFiles
from forwardpass.server.onnx.signature import Signature
from forwardpass.wire import Array
from forwardpass.wire.dtypes import STRING

# The most bytes of an input that a configuration asks for.
_MAX_WARMUP_BYTES = 256 << 20
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
            name: _array(spec.type.dtype, (rows, *_closed(spec.shape[1:])), random)
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
        name: _array(spec.type.dtype, _closed(spec.shape), random)
        for name, spec in signature.inputs.items()
    }


def warmup_inputs(
    signature: Signature, warmup: Warmup, files: RepositoryFiles
) -> Mapping[str, Array]:
    """Returns the inputs that a configuration's warm-up asks for.

    Args:
        signature: The model's.
        warmup: What it asks for.
        files: Opens the files that it names.

    Raises:
        ConfigError: They do not fit the model.
    """
    random = np.random.default_rng(0)
    inputs: dict[str, Array] = {}
    for name, (extents, source) in warmup.inputs.items():
        spec = signature.inputs.get(name)
        if spec is None:
            raise ConfigError(f"{CONFIG_FILE}: the warm-up names {name!r}, which is no input")
        shape = (warmup.rows, *extents) if warmup.rows else extents
        size = spec.type.dtype.itemsize * prod(shape)
        if min(shape, default=1) < 0 or size > _MAX_WARMUP_BYTES:
            raise ConfigError(
                f"{CONFIG_FILE}: the warm-up asks for {name!r} of shape {list(shape)}; at most "
                f"{_MAX_WARMUP_BYTES} bytes are made"
            )
        if isinstance(source, NamedFile):
            inputs[name] = _read(files, source, spec.type.dtype, shape)
        else:
            inputs[name] = _array(spec.type.dtype, shape, random if source == "random" else None)
    try:
        signature.check(inputs)
    except Exception as error:
        raise ConfigError(f"{CONFIG_FILE}: the warm-up does not fit: {error}") from error
    return inputs


def _array(
    dtype: np.dtype[Any], shape: tuple[int, ...], random: np.random.Generator | None
) -> Array:
    """Returns made-up elements; all zeros, or empty strings, without a source of random ones."""
    if dtype == STRING.dtype:
        return np.full(shape, "", object)
    if random is None or dtype.kind in "iub":
        return np.zeros(shape, dtype)
    return random.random(shape, np.float32).astype(dtype)


def _read(
    files: RepositoryFiles, file: NamedFile, dtype: np.dtype[Any], shape: tuple[int, ...]
) -> Array:
    data = files.read(file.path, _MAX_WARMUP_BYTES)
    if dtype == STRING.dtype or len(data) != dtype.itemsize * prod(shape):
        raise ConfigError(f"{CONFIG_FILE}: {file.path.name} has not the bytes of {list(shape)}")
    return np.frombuffer(data, dtype).reshape(shape)


def _closed(extents: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(1 if extent == -1 else extent for extent in extents)
