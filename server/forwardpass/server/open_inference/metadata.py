"""ServerLive, ServerReady, ServerMetadata, ModelReady and ModelMetadata."""

from collections.abc import Iterable
from typing import Any

from forwardpass.server.onnx.signature import TensorSpec
from forwardpass.server.open_inference.messages import message as kind
from forwardpass.server.open_inference.messages import read
from forwardpass.server.open_inference.reference import leased, reference
from forwardpass.server.process.release import DISTRIBUTION, release
from forwardpass.server.repository.readiness import Readiness
from forwardpass.server.repository.repository import Repository

# What Triton calls an ONNX model that ONNX Runtime runs.
PLATFORM = "onnxruntime_onnx"
_ServerLiveResponse = kind("ServerLiveResponse")
_ServerReadyResponse = kind("ServerReadyResponse")
_ServerMetadataResponse = kind("ServerMetadataResponse")
_ModelReadyResponse = kind("ModelReadyResponse")
_ModelMetadataResponse = kind("ModelMetadataResponse")

# Clients branch on these, so only those that work are named.
_EXTENSIONS = (
    "binary_tensor_data",
    "classification",
    "model_configuration",
    "parameters",
    "schedule_policy",
    "statistics",
)
_MANAGED = "model_repository"


class Metadata:
    """Tells whether the server and its models are ready, and what they take and give.

    Args:
        repository: The models.
        readiness: What is ready.
        manages: Whether callers may have models loaded and unloaded.
    """

    def __init__(self, repository: Repository, readiness: Readiness, *, manages: bool) -> None:
        self._repository = repository
        self._readiness = readiness
        self._extensions = (*_EXTENSIONS, _MANAGED) if manages else _EXTENSIONS

    def server_live(self, message: bytes) -> bytes:
        """Answers a ServerLiveRequest: whoever can answer is live."""
        read(kind("ServerLiveRequest"), message)
        data: bytes = _ServerLiveResponse(live=True).SerializeToString()
        return data

    def server_ready(self, message: bytes) -> bytes:
        """Answers a ServerReadyRequest."""
        read(kind("ServerReadyRequest"), message)
        data: bytes = _ServerReadyResponse(ready=bool(self._readiness.of(""))).SerializeToString()
        return data

    def server_metadata(self, message: bytes) -> bytes:
        """Answers a ServerMetadataRequest."""
        read(kind("ServerMetadataRequest"), message)
        response = _ServerMetadataResponse(
            name=DISTRIBUTION, version=release(), extensions=self._extensions
        )
        data: bytes = response.SerializeToString()
        return data

    def model_ready(self, message: bytes) -> bytes:
        """Answers a ModelReadyRequest; NOT_FOUND where there is no such model or version."""
        request = read(kind("ModelReadyRequest"), message)
        found = self._repository.describe(reference(request.name, request.version))
        ready = found.ready and not found.failing and not self._readiness.draining
        data: bytes = _ModelReadyResponse(ready=ready).SerializeToString()
        return data

    def model_metadata(self, message: bytes) -> bytes:
        """Answers a ModelMetadataRequest: shapes with the batch axis, -1 for any extent."""
        request = read(kind("ModelMetadataRequest"), message)
        with leased(self._repository, request.name, request.version) as loaded:
            numbers = [loaded.number]
            if not request.version:
                versions = self._repository.models[loaded.name].versions
                numbers = sorted(v.number for v in versions if v.ready)
            response = _ModelMetadataResponse(
                name=loaded.name,
                versions=map(str, numbers),
                platform=PLATFORM,
                inputs=_tensors(loaded.signature.inputs.values()),
                outputs=_tensors(loaded.signature.outputs.values()),
            )
        data: bytes = response.SerializeToString()
        return data


def _tensors(specs: Iterable[TensorSpec]) -> list[Any]:
    return [
        _ModelMetadataResponse.TensorMetadata(
            name=spec.name, datatype=spec.type.open_inference, shape=spec.shape
        )
        for spec in specs
    ]
