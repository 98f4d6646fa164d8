"""Which model a request means."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

from forwardpass.server.errors import InvalidInput, quote
from forwardpass.server.loading.loaded import Loaded
from forwardpass.server.repository.repository import Repository
from forwardpass.v1.model_service_pb2 import ModelReference

_NUMBER = re.compile(r"-?[0-9]+")
_LABEL = re.compile(r"[A-Za-z][A-Za-z0-9._-]{0,127}")
_MAX_NUMBER = (1 << 63) - 1


def reference(name: str, version: str) -> ModelReference:
    """Returns what a name and a version mean: an empty version is the newest that is ready.

    Raises:
        InvalidInput: The version is neither empty, nor a number as a folder is called, nor a label.
    """
    if not version:
        return ModelReference(name=name)
    if _NUMBER.fullmatch(version):
        # A number of thousands of digits is not worth converting.
        number = int(version) if len(version) < 20 else _MAX_NUMBER + 1
        if str(number) == version and number <= _MAX_NUMBER:
            return ModelReference(name=name, version=number)
    elif _LABEL.fullmatch(version):
        return ModelReference(name=name, label=version)
    raise InvalidInput(
        f"version {quote(version)} is neither a number from 1 to {_MAX_NUMBER} nor a label",
        field="model_version",
    )


@contextmanager
def leased(repository: Repository, name: str, version: str) -> Iterator[Loaded]:
    """Holds what answers for a model, to describe it.

    Raises:
        CallError: No such model or version, or one that does not answer, and why.
    """
    loaded = repository.find(reference(name, version))
    try:
        yield loaded
    finally:
        loaded.leases.leave()
