"""Every method that the server answers, and what answers it: one table."""

from dataclasses import dataclass

from google.protobuf import descriptor_pool

from forwardpass.server.native.embed import Embed
from forwardpass.server.native.generate import Generate
from forwardpass.server.native.models import Models
from forwardpass.server.native.predict import Predict
from forwardpass.server.native.streams import Streams
from forwardpass.server.open_inference.configuration import Configuration
from forwardpass.server.open_inference.infer import Infer
from forwardpass.server.open_inference.metadata import Metadata
from forwardpass.server.open_inference.repository import Index
from forwardpass.server.open_inference.statistics import Statistics
from forwardpass.server.open_inference.stream import InferStreams
from forwardpass.server.repository.readiness import Readiness
from forwardpass.server.repository.repository import Repository
from forwardpass.server.rpc.dispatch import Method, Takes, answers, fact, management, stream, work
from forwardpass.server.rpc.health import Health
from forwardpass.server.rpc.inputs import InputReader
from forwardpass.server.rpc.reflection import METHODS as REFLECTION_METHODS
from forwardpass.server.rpc.reflection import Reflection
from forwardpass.server.rpc.tokens import Permission
from forwardpass.server.scheduling.admission import Admission
from forwardpass.wire.open_inference import SERVICE as OPEN_INFERENCE
from forwardpass.wire.open_inference import pool as open_inference_pool

INFERENCE = "forwardpass.v1.InferenceService"
MODELS = "forwardpass.v1.ModelService"
HEALTH = "grpc.health.v1.Health"


@dataclass(frozen=True, slots=True)
class Services:
    """What the handlers share.

    Attributes:
        repository: The models.
        readiness: What is ready.
        reader: Makes arrays of requests.
        admission: Admits each request of a stream.
        max_message_bytes: The longest message.
        reflects: Whether server reflection is answered.
        manages: Whether callers may have models loaded and unloaded.
        health: What a token has to permit for calls of health, where the server takes tokens; None
            for nothing.
    """

    repository: Repository
    readiness: Readiness
    reader: InputReader
    admission: Admission
    max_message_bytes: int
    reflects: bool
    manages: bool
    health: Permission | None


def methods(services: Services) -> dict[str, Method]:
    """Returns the table of methods, by path.

    `work` runs a model, with one answer; `answers` has many, `stream` many messages each way.
    `fact` tells what is known. `management` changes what is served. Beside each stands what a token
    has to permit, where the server takes tokens.
    """
    for_health = services.health
    repository, reader = services.repository, services.reader
    readiness = services.readiness
    predict, embed = Predict(repository, reader), Embed(repository, reader)
    generate = Generate(repository, reader, services.max_message_bytes)
    streams = Streams(predict, embed, repository, reader, readiness, services.admission)
    models = Models(repository, services.max_message_bytes)
    health = Health(readiness)
    infer = Infer(repository, reader)
    infer_streams = InferStreams(infer, services.admission, readiness, repository)
    metadata = Metadata(repository, readiness, manages=services.manages)
    configuration, statistics = Configuration(repository), Statistics(repository)
    index = Index(repository)
    table = {
        f"/{INFERENCE}/Predict": work(predict.predict, Permission.INFER, predict.templates),
        f"/{INFERENCE}/Embed": work(embed.embed, Permission.EMBED, embed.templates),
        f"/{INFERENCE}/Generate": work(generate.generate, Permission.GENERATE),
        f"/{INFERENCE}/PredictStream": stream(streams.predict, Permission.INFER),
        f"/{INFERENCE}/EmbedStream": stream(streams.embed, Permission.EMBED),
        f"/{INFERENCE}/GenerateStream": answers(
            generate.generate_stream, Permission.GENERATE, takes=Takes.CALL
        ),
        f"/{MODELS}/ListModels": fact(models.list_models, Permission.READ),
        f"/{MODELS}/GetModel": fact(models.get_model, Permission.READ),
        f"/{MODELS}/LoadModel": management(models.load_model),
        f"/{MODELS}/UnloadModel": management(models.unload_model),
        f"/{HEALTH}/Check": fact(health.check, for_health),
        f"/{HEALTH}/Watch": answers(health.watch, for_health, takes=Takes.WATCH),
        f"/{OPEN_INFERENCE}/ModelInfer": work(infer.infer, Permission.INFER, infer.templates),
        f"/{OPEN_INFERENCE}/ModelStreamInfer": stream(infer_streams.infer, Permission.INFER),
        f"/{OPEN_INFERENCE}/ServerLive": fact(metadata.server_live, for_health),
        f"/{OPEN_INFERENCE}/ServerReady": fact(metadata.server_ready, for_health),
        f"/{OPEN_INFERENCE}/ServerMetadata": fact(metadata.server_metadata, Permission.READ),
        f"/{OPEN_INFERENCE}/ModelReady": fact(metadata.model_ready, Permission.READ),
        f"/{OPEN_INFERENCE}/ModelMetadata": fact(metadata.model_metadata, Permission.READ),
        f"/{OPEN_INFERENCE}/ModelConfig": fact(configuration.model_config, Permission.READ),
        f"/{OPEN_INFERENCE}/ModelStatistics": fact(statistics.model_statistics, Permission.READ),
        f"/{OPEN_INFERENCE}/RepositoryIndex": fact(index.repository_index, Permission.READ),
        f"/{OPEN_INFERENCE}/RepositoryModelLoad": management(index.load),
        f"/{OPEN_INFERENCE}/RepositoryModelUnload": management(index.unload),
    }
    if services.reflects:
        reflection = Reflection(
            (INFERENCE, MODELS, OPEN_INFERENCE, HEALTH),
            [descriptor_pool.Default(), open_inference_pool()],
        )
        table |= {path: stream(reflection.info, Permission.READ) for path in REFLECTION_METHODS}
    return table
