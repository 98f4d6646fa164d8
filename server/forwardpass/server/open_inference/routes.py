"""The methods of inference.GRPCInferenceService, and what answers each."""

from dataclasses import dataclass

from forwardpass.server.open_inference.configuration import Configuration
from forwardpass.server.open_inference.infer import Inference
from forwardpass.server.open_inference.metadata import Metadata
from forwardpass.server.open_inference.repository import Index, Lifecycle
from forwardpass.server.open_inference.statistics import Statistics
from forwardpass.server.open_inference.stream import Streaming
from forwardpass.server.repository.readiness import Readiness
from forwardpass.server.repository.repository import Repository
from forwardpass.server.rpc.inputs import InputReader
from forwardpass.server.scheduling.admission import Admission
from forwardpass.server.transport.call import CallType, Route
from forwardpass.wire.open_inference import SERVICE

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


@dataclass(frozen=True, slots=True)
class RouteTables:
    """Routes by path.

    Attributes:
        work: Those that run models, to be admitted before they are parsed.
        facts: Those that tell about them.
        management: Those that change what is served; none where that is not allowed.
    """

    work: dict[str, Route]
    facts: dict[str, Route]
    management: dict[str, Route]


def routes(
    repository: Repository,
    reader: InputReader,
    admission: Admission,
    readiness: Readiness,
    lifecycle: Lifecycle | None = None,
) -> RouteTables:
    """Returns the routes of the protocol's service.

    Args:
        repository: The models.
        reader: Makes arrays of strings, and knows what is refused.
        admission: Admits each request of a stream.
        readiness: What is ready.
        lifecycle: What loads and unloads models for callers; None where they may not.
    """
    extensions = _EXTENSIONS if lifecycle is None else (*_EXTENSIONS, _MANAGED)
    metadata = Metadata(repository, readiness, extensions)
    index = Index(repository, lifecycle)
    inference = Inference(repository, reader)
    streaming = Streaming(inference, admission, readiness)
    work = {
        "ModelInfer": Route(CallType.UNARY, inference.infer),
        "ModelStreamInfer": Route(CallType.BIDI_STREAM, streaming.infer),
    }
    facts = {
        "ServerLive": metadata.server_live,
        "ServerReady": metadata.server_ready,
        "ServerMetadata": metadata.server_metadata,
        "ModelReady": metadata.model_ready,
        "ModelMetadata": metadata.model_metadata,
        "ModelConfig": Configuration(repository).model_config,
        "ModelStatistics": Statistics(repository).model_statistics,
        "RepositoryIndex": index.repository_index,
    }
    management = (
        {}
        if lifecycle is None
        else {
            "RepositoryModelLoad": index.load,
            "RepositoryModelUnload": index.unload,
        }
    )
    return RouteTables(
        {_path(name): route for name, route in work.items()},
        {_path(name): Route(CallType.UNARY, handle) for name, handle in facts.items()},
        {
            _path(name): Route(CallType.UNARY, handle, blocks=True)
            for name, handle in management.items()
        },
    )


def _path(method: str) -> str:
    return f"/{SERVICE}/{method}"
