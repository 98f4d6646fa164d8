"""ModelService: what is served, and management of it."""

from forwardpass.server.loading.loaded import Loaded
from forwardpass.server.native.outputs import class_labels
from forwardpass.server.onnx.signature import signature_message
from forwardpass.server.repository.repository import Repository
from forwardpass.server.repository.version import Version
from forwardpass.server.rpc.receive import parse
from forwardpass.server.transport.call import Call
from forwardpass.v1 import model_service_pb2


class Models:
    """Answers ListModels, GetModel, LoadModel and UnloadModel.

    Args:
        repository: The models.
        max_message_bytes: The longest message that the server takes.
    """

    def __init__(self, repository: Repository, max_message_bytes: int) -> None:
        self._repository = repository
        self._max_message_bytes = max_message_bytes

    def list_models(self, message: bytes) -> bytes:
        """Answers a ListModelsRequest."""
        parse(model_service_pb2.ListModelsRequest, message)
        response = model_service_pb2.ListModelsResponse(
            models=[
                self._summary(version)
                for _, model in sorted(self._repository.models.items())
                for version in model.versions
            ]
        )
        return response.SerializeToString()

    def get_model(self, message: bytes) -> bytes:
        """Answers a GetModelRequest."""
        request = parse(model_service_pb2.GetModelRequest, message)
        version = self._repository.describe(request.model)
        response = model_service_pb2.GetModelResponse(
            model=self._model(version), max_message_bytes=self._max_message_bytes
        )
        return response.SerializeToString()

    async def load_model(self, call: Call, message: bytes) -> bytes:
        """Answers a LoadModelRequest, once the version is ready."""
        request = parse(model_service_pb2.LoadModelRequest, message)
        version = await call.offload(lambda: self._repository.load(request.model), waits=True)
        response = model_service_pb2.LoadModelResponse(model=self._model(version))
        return response.SerializeToString()

    async def unload_model(self, call: Call, message: bytes) -> bytes:
        """Answers an UnloadModelRequest, once the last call of what it names has ended."""
        request = parse(model_service_pb2.UnloadModelRequest, message)
        versions = await call.offload(lambda: self._repository.unload(request.model), waits=True)
        response = model_service_pb2.UnloadModelResponse(
            models=[self._summary(version) for version in versions]
        )
        return response.SerializeToString()

    def _model(self, version: Version) -> model_service_pb2.Model:
        model = model_service_pb2.Model(summary=self._summary(version))
        if (loaded := version.loaded) is not None:
            _describe(model, loaded)
        return model

    def _summary(self, version: Version) -> model_service_pb2.ModelSummary:
        loaded = version.loaded
        model = self._repository.models.get(version.name)
        return model_service_pb2.ModelSummary(
            model=model_service_pb2.ModelVersion(name=version.name, version=version.number),
            state=version.state,
            state_reason=version.state_reason,
            version_labels=model.labels_of(version.number) if model else [],
            description=loaded.card.description if loaded and loaded.card else "",
            calls=loaded.calls if loaded else [],
        )


def _describe(model: model_service_pb2.Model, loaded: Loaded) -> None:
    """Fills in what only a loaded version knows."""
    model.digest = loaded.digest
    if loaded.card is not None:
        model.card.CopyFrom(loaded.card)
    model.signature.CopyFrom(signature_message(loaded.signature))
    if loaded.golden is not None:
        model.golden.rows = loaded.golden.rows
        model.golden.passed = True
        model.golden.max_absolute_error = loaded.golden.max_absolute_error
    for point in loaded.curve:
        model.batch_curve.add(rows=point.rows).duration.FromNanoseconds(round(point.seconds * 1e9))
    model.batching.enabled = loaded.batching.enabled
    model.batching.max_rows = loaded.batching.max_rows
    model.batching.reason = loaded.batching.reason
    if loaded.independence.rows:
        model.row_independence.rows = loaded.independence.rows
        model.row_independence.max_relative_difference = loaded.independence.difference
    model.class_labels.extend(class_labels(loaded))
    model.providers.extend(loaded.session.providers)
    for output, space in loaded.embedding_spaces.items():
        model.embedding_spaces.add(
            output=output,
            space_id=space,
            dimension=max(0, loaded.signature.outputs[output].shape[-1]),
        )
    model.load_duration.FromNanoseconds(round(loaded.seconds * 1e9))
