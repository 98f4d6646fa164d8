"""The inputs of a warm-up that a model's configuration asks for."""

from collections.abc import Mapping
from math import prod
from typing import Any

import numpy as np

from forwardpass.server.loading.config import Warmup
from forwardpass.server.loading.config_text import CONFIG_FILE, ConfigError
from forwardpass.server.loading.examples import made_up_array
from forwardpass.server.loading.files import NamedFile, RepositoryFiles
from forwardpass.server.onnx.signature import Signature
from forwardpass.wire import Array
from forwardpass.wire.dtypes import STRING

# The most bytes of an input that a configuration asks for.
_MAX_BYTES = 256 << 20


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
        if min(shape, default=1) < 0 or size > _MAX_BYTES:
            raise ConfigError(
                f"{CONFIG_FILE}: the warm-up asks for {name!r} of shape {list(shape)}; at most "
                f"{_MAX_BYTES} bytes are made"
            )
        if isinstance(source, NamedFile):
            inputs[name] = _read(files, source, spec.type.dtype, shape)
        else:
            inputs[name] = made_up_array(
                spec.type.dtype, shape, random if source == "random" else None
            )
    try:
        signature.check(inputs)
    except Exception as error:
        raise ConfigError(f"{CONFIG_FILE}: the warm-up does not fit: {error}") from error
    return inputs


def _read(
    files: RepositoryFiles, file: NamedFile, dtype: np.dtype[Any], shape: tuple[int, ...]
) -> Array:
    data = files.read(file.path, _MAX_BYTES)
    if dtype == STRING.dtype or len(data) != dtype.itemsize * prod(shape):
        raise ConfigError(f"{CONFIG_FILE}: {file.path.name} has not the bytes of {list(shape)}")
    return np.frombuffer(data, dtype).reshape(shape)
