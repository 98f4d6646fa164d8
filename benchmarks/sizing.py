"""What a pod takes for a model: memory at rest and under load, and calls a second on one core."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np

from benchmarks.bare import answers
from benchmarks.calls import PREDICT, Protocol, check_answers, one_target
from benchmarks.competitor import Competitor
from benchmarks.networks import FLOAT, INT8, LENET, publish_resnet
from benchmarks.plan import Plan
from benchmarks.report import Table
from benchmarks.serving import serve
from forwardpass.artefact import MODEL_FILE
from forwardpass.v1 import inference_service_pb2 as pb
from forwardpass.v1.model_service_pb2 import ModelReference
from forwardpass.wire import Array, from_tensor, to_tensor

# A pod's: its longest message and what goes with that.
SETTINGS = Path(__file__).parents[1] / "deploy" / "kustomize" / "base" / "settings.env"
_MLP = "digits-mlp"
_INPUT = "image"
_IN_FLIGHT = 32
# The slowest answers some twenty a second, so a round of it takes seconds.
_TRIAL = 2 * _IN_FLIGHT
_QUESTIONS = 3


def _predict_request(model: str, image: Array) -> bytes:
    inputs = {_INPUT: to_tensor(image)}
    return pb.PredictRequest(model=ModelReference(name=model), inputs=inputs).SerializeToString()


def _predict_response(message: bytes) -> Array:
    (tensor,) = pb.PredictResponse.FromString(message).outputs.values()
    return from_tensor(tensor)


def _embed_request(model: str, image: Array) -> bytes:
    inputs = {_INPUT: to_tensor(image)}
    return pb.EmbedRequest(model=ModelReference(name=model), inputs=inputs).SerializeToString()


def _embed_response(message: bytes) -> Array:
    return from_tensor(pb.EmbedResponse.FromString(message).embeddings)


PREDICT_IMAGE = Protocol("Predict", PREDICT.path, _predict_request, _predict_response)
EMBED_IMAGE = Protocol(
    "Embed", "/forwardpass.v1.InferenceService/Embed", _embed_request, _embed_response
)


@dataclass(frozen=True)
class Network:
    """What is served alone, and asked for one image a call.

    Attributes:
        name: The model's.
        weights: "float" or "int8".
        version: Its folder, MODEL/VERSION.
        shape: Of an image: height, width, channels.
        protocol: How it is asked.
        output: What comes back.
    """

    name: str
    weights: str
    version: Path
    shape: tuple[int, int, int]
    protocol: Protocol
    output: str


def measure(plan: Plan) -> list[Table]:
    """Measures each network in a server of its own, with the settings of a pod."""
    rows = [
        measure_network(network, plan.scratch / network.name, plan.rounds)
        for network in _networks(plan.models)
    ]
    how = (
        f"One image a call as a uint8 tensor, {_IN_FLIGHT} calls in flight by h2load on another "
        "core; each network alone in a server on one core, with the settings of "
        "`deploy/kustomize/base/settings.env`. In MiB: the model's file; resident memory, files "
        "that are mapped included, once ready, the most right after a round and since the "
        "start; the limit by the formula of deploy/README.md. ResNets have random weights. Medians "
        f"of {plan.rounds} rounds."
    )
    columns = ["model", "call", "file", "at rest", "under load", "most", "limit", "calls/s"]
    return [Table("Sizing", how, columns, rows)]


def measure_network(network: Network, repository: Path, rounds: int) -> list[str]:
    """Measures one network, after its answers have been compared, and returns its row.

    Args:
        network: Which.
        repository: Where it is served from; there is nothing yet.
        rounds: How often its rate is measured.

    Raises:
        SystemExit: An answer is wrong, or a call fails.
    """
    shutil.copytree(network.version, repository / network.name / "1")
    settings = pod_settings()
    flags = [part for name, value in settings.items() for part in (_flag(name), value)]
    with serve(repository, *flags) as serving:
        at_rest = serving.rss_megabytes()
        random = np.random.default_rng(0)
        images = random.integers(0, 256, (_QUESTIONS, 1, *network.shape), np.uint8)
        right = answers(network.version / MODEL_FILE, _INPUT, images, network.output)
        check_answers(serving.address, network.protocol, network.name, images, right)
        target = one_target(serving.address, network.protocol, network.name, images[0])
        calls = Competitor(network.name, target, _IN_FLIGHT, _TRIAL)
        calls.calibrate()
        loaded = []
        for _ in range(rounds):
            calls.measure()
            loaded.append(serving.rss_megabytes())
        serving.check_handled()
        most = serving.most_rss_megabytes()
    file = (network.version / MODEL_FILE).stat().st_size
    limit = limit_mebibytes(file, int(settings["max_message_bytes"]))
    return [
        f"{network.name}, {network.weights}",
        network.protocol.name,
        f"{file / 2**20:.1f}",
        *(f"{1e6 * megabytes / 2**20:.0f}" for megabytes in (at_rest, max(loaded), most)),
        f"{limit:.0f}",
        f"{median(calls.rates):,.0f}",
    ]


def limit_mebibytes(files: int, message: int) -> float:
    """Returns the memory limit of a pod in MiB, by the formula of deploy/README.md.

    Args:
        files: The bytes of the models' files.
        message: The bytes of the longest message.
    """
    return 100 + (4 * files + 16 * message) / 2**20


def pod_settings() -> dict[str, str]:
    """Returns the settings of a pod by their names, as "max_message_bytes"."""
    lines = SETTINGS.read_text(encoding="utf-8").splitlines()
    pairs = (line.split("=", 1) for line in lines if line and not line.startswith("#"))
    return {name.removeprefix("FORWARDPASS_").lower(): value for name, value in pairs}


def _networks(demo: Path) -> list[Network]:
    """Returns what is measured; ResNets are made first where they are not there."""
    networks = demo.parent / "networks"
    mlp, lenet = (_newest(demo / name) for name in (_MLP, LENET))
    resnets = {depth: publish_resnet(depth, networks) for depth in (18, 50)}
    photo = (224, 224, 3)
    return [
        Network(_MLP, "float", mlp, (8, 8, 1), PREDICT_IMAGE, "probabilities"),
        Network(LENET, "float", lenet, (28, 28, 1), PREDICT_IMAGE, "probabilities"),
        Network("resnet-18", "float", resnets[18] / str(FLOAT), photo, EMBED_IMAGE, "embedding"),
        Network("resnet-50", "int8", resnets[50] / str(INT8), photo, EMBED_IMAGE, "embedding"),
    ]


def _newest(model: Path) -> Path:
    versions = (path.parent for path in model.glob("*/manifest.json"))
    return max(versions, key=lambda version: int(version.name))


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"
