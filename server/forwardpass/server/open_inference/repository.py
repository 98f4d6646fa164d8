"""RepositoryIndex, RepositoryModelLoad and RepositoryModelUnload."""

from collections.abc import Callable
from typing import Any

from forwardpass.server.errors import CallError, quote
from forwardpass.server.loading.load import State
from forwardpass.server.open_inference.messages import message as kind
from forwardpass.server.open_inference.messages import read
from forwardpass.server.open_inference.reference import reference
from forwardpass.server.repository.repository import Repository
from forwardpass.server.repository.version import Version
from forwardpass.server.transport.call import Call
from forwardpass.v1.model_service_pb2 import ModelReference
from forwardpass.wire import Reason

_RepositoryIndexResponse = kind("RepositoryIndexResponse")
_STATES = {
    State.MODEL_STATE_DISCOVERED: ("UNAVAILABLE", "not loaded"),
    State.MODEL_STATE_VERIFYING: ("LOADING", ""),
    State.MODEL_STATE_LOADING: ("LOADING", ""),
    State.MODEL_STATE_WARMING: ("LOADING", ""),
    State.MODEL_STATE_READY: ("READY", ""),
    State.MODEL_STATE_DRAINING: ("UNLOADING", ""),
    State.MODEL_STATE_UNLOADED: ("UNAVAILABLE", "unloaded"),
    State.MODEL_STATE_FAILED: ("UNAVAILABLE", "failed"),
}
# Triton's clients always send it; no model here depends on another.
_HARMLESS = {"unload_dependents"}


class Index:
    """Lists every version found, and has them loaded and unloaded.

    Args:
        repository: The models.
    """

    def __init__(self, repository: Repository) -> None:
        self._repository = repository

    def repository_index(self, message: bytes) -> bytes:
        """Answers a RepositoryIndexRequest: one entry for each version."""
        request = read(kind("RepositoryIndexRequest"), message)
        _check_repository(request)
        response = _RepositoryIndexResponse()
        for _, model in sorted(self._repository.models.items()):
            for version in sorted(model.versions, key=lambda v: v.number):
                if version.ready or not request.ready:
                    _describe(version, response.models.add())
        data: bytes = response.SerializeToString()
        return data

    async def load(self, call: Call, message: bytes) -> bytes:
        """Answers a RepositoryModelLoadRequest, once the model's newest version is ready."""
        return await _change(call, message, "RepositoryModelLoad", self._repository.load)

    async def unload(self, call: Call, message: bytes) -> bytes:
        """Answers a RepositoryModelUnloadRequest, once the model's last call has ended."""
        return await _change(call, message, "RepositoryModelUnload", self._repository.unload)


async def _change(
    call: Call, message: bytes, name: str, change: Callable[[ModelReference], object]
) -> bytes:
    request = read(kind(f"{name}Request"), message)
    _check_repository(request)
    for key in request.parameters:
        if key not in _HARMLESS:
            raise CallError(
                Reason.UNIMPLEMENTED,
                f"parameter {quote(key)} is not supported: models are loaded as they lie in "
                "the repository",
                field="parameters",
            )
    target = reference(request.model_name, "")
    await call.offload(lambda: change(target), waits=True)
    data: bytes = kind(f"{name}Response")().SerializeToString()
    return data


def _check_repository(request: Any) -> None:
    if request.repository_name:
        raise CallError(
            Reason.UNIMPLEMENTED,
            "there is one repository and it has no name; leave repository_name empty",
            field="repository_name",
        )


def _describe(version: Version, entry: Any) -> None:
    entry.name, entry.version = version.name, str(version.number)
    entry.state, reason = _STATES[version.state]
    entry.reason = version.state_reason or reason
