"""ListModels and GetModel of ModelService."""

from forwardpass.server.rpc.parse import parse
from forwardpass.server.runtime.repository import Repository
from forwardpass.server.runtime.signature import signature_message
from forwardpass.server.runtime.version import Loaded, Version
from forwardpass.server.transport.call import Call
from forwardpass.v1 import model_service_pb2


class Models:
    """Answers ListModels and GetModel.

    Args:
        repository: The models.
    """

    def __init__(self, repository: Repository) -> None:
        self._repository = repository

    def list_models(self, call: Call, message: bytes) -> None:
        """Answers a ListModelsRequest."""
        parse(model_service_pb2.ListModelsRequest, message)
        response = model_service_pb2.ListModelsResponse(
            models=[
                _summary(version)
                for name in sorted(self._repository.models)
                for version in self._repository.models[name]
            ]
        )
        call.reply(response.SerializeToString())

    def get_model(self, call: Call, message: bytes) -> None:
        """Answers a GetModelRequest."""
        request = parse(model_service_pb2.GetModelRequest, message)
        version = self._repository.describe(request.model)
        model = model_service_pb2.Model(summary=_summary(version))
        if version.loaded is not None:
            _describe(model, version.loaded)
        response = model_service_pb2.GetModelResponse(model=model)
        call.reply(response.SerializeToString())


def _summary(version: Version) -> model_service_pb2.ModelSummary:
    loaded = version.loaded
    return model_service_pb2.ModelSummary(
        model=model_service_pb2.ModelVersion(name=version.name, version=version.number),
        state=version.state,
        state_reason=version.state_reason,
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
    model.providers.extend(loaded.session.providers)
    for output, space in loaded.embedding_spaces.items():
        model.embedding_spaces.add(
            output=output,
            space_id=space,
            dimension=max(0, loaded.signature.outputs[output].shape[-1]),
        )
    model.load_duration.FromNanoseconds(round(loaded.seconds * 1e9))
