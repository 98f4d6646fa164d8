"""RepositoryIndex, RepositoryModelLoad and RepositoryModelUnload."""

import threading
from collections.abc import Callable
from typing import Any, Protocol

from forwardpass.server.errors import CallError, quote
from forwardpass.server.loading.load import State
from forwardpass.server.open_inference.messages import message as kind
from forwardpass.server.open_inference.messages import read
from forwardpass.server.open_inference.reference import reference
from forwardpass.server.repository.repository import Repository
from forwardpass.server.repository.version import Version
from forwardpass.server.transport.call import Call
from forwardpass.v1 import model_service_pb2
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


class Lifecycle(Protocol):
    """Loads models and lets go of them on request. A `Repository` is one."""

    def load(self, reference: model_service_pb2.ModelReference) -> object:
        """Loads a version, and returns when it is ready.

        Raises:
            CallError: There is none such, or it does not pass its checks.
        """

    def unload(self, reference: model_service_pb2.ModelReference) -> object:
        """Lets go of a model, and returns after its last call.

        Raises:
            CallError: There is no such model.
        """


class Index:
    """Lists every version found, and has them loaded and let go of where that is allowed.

    Args:
        repository: The models.
        lifecycle: What loads and unloads; None where callers may not.
    """

    def __init__(self, repository: Repository, lifecycle: Lifecycle | None) -> None:
        self._repository = repository
        self._lifecycle = lifecycle

    def repository_index(self, call: Call, message: bytes) -> None:
        """Answers a RepositoryIndexRequest: one entry for each version."""
        request = read(kind("RepositoryIndexRequest"), message)
        _check_repository(request)
        response = _RepositoryIndexResponse()
        for _, model in sorted(self._repository.models.items()):
            for version in sorted(model.versions, key=lambda v: v.number):
                if version.ready or not request.ready:
                    _describe(version, response.models.add())
        call.reply(response.SerializeToString())

    def load(self, call: Call, message: bytes) -> None:
        """Answers a RepositoryModelLoadRequest, once the model's newest version is ready."""
        assert self._lifecycle is not None
        self._change(call, message, "RepositoryModelLoad", self._lifecycle.load)

    def unload(self, call: Call, message: bytes) -> None:
        """Answers a RepositoryModelUnloadRequest, once the model's last call has ended."""
        assert self._lifecycle is not None
        self._change(call, message, "RepositoryModelUnload", self._lifecycle.unload)

    def _change(
        self,
        call: Call,
        message: bytes,
        name: str,
        change: Callable[[model_service_pb2.ModelReference], object],
    ) -> None:
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

        def work() -> None:
            outcome: Exception | None = None
            try:
                change(target)
            except Exception as error:  # noqa: BLE001  # handed to the call
                outcome = error
            call.resume(lambda: end(outcome))

        def end(outcome: Exception | None) -> None:
            if outcome is not None:
                raise outcome
            call.reply(kind(f"{name}Response")().SerializeToString())

        # It takes seconds, and the call's own thread may be that of every call.
        threading.Thread(target=work, name=name, daemon=True).start()


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
