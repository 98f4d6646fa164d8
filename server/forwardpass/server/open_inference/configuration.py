"""ModelConfig: a model as Triton's configuration would describe it."""

from collections.abc import Mapping
from typing import Any

from forwardpass.artefact import CARD_KEY, MODEL_FILE, card_to_json
from forwardpass.server.loading.batch_curve import DEFAULT_MAX_ROWS
from forwardpass.server.loading.loaded import Loaded
from forwardpass.server.onnx.signature import TensorSpec
from forwardpass.server.open_inference.messages import message as kind
from forwardpass.server.open_inference.messages import read
from forwardpass.server.open_inference.metadata import PLATFORM
from forwardpass.server.open_inference.reference import leased
from forwardpass.server.repository.repository import Repository
from forwardpass.v1 import model_card_pb2
from forwardpass.wire.dtypes import STRING

DIGEST_KEY = "forwardpass.digest"
_BACKEND = "onnxruntime"
_CPU = "CPUExecutionProvider"
_ModelConfig = kind("ModelConfig")
_ModelConfigResponse = kind("ModelConfigResponse")


class Configuration:
    """Answers ModelConfig.

    Args:
        repository: The models.
    """

    def __init__(self, repository: Repository) -> None:
        self._repository = repository

    def model_config(self, message: bytes) -> bytes:
        """Answers a ModelConfigRequest."""
        request = read(kind("ModelConfigRequest"), message)
        with leased(self._repository, request.name, request.version) as loaded:
            response = _ModelConfigResponse(config=_describe(loaded))
        data: bytes = response.SerializeToString()
        return data


def _describe(loaded: Loaded) -> Any:
    signature = loaded.signature
    # With a batch axis there is always a number: clients take 0 to mean that there is none.
    most = (signature.max_rows or DEFAULT_MAX_ROWS) if signature.batched else 0
    files = loaded.config.label_files or {}
    config = _ModelConfig(
        name=loaded.name,
        platform=PLATFORM,
        backend=_BACKEND,
        default_model_filename=MODEL_FILE,
        max_batch_size=most,
        input=[
            {**_tensor(spec, batched=signature.batched), "format": _image_format(spec)}
            for spec in signature.inputs.values()
        ],
        output=[
            {
                **_tensor(spec, batched=signature.batched),
                "label_filename": files[spec.name].path.name if spec.name in files else "",
            }
            for spec in signature.outputs.values()
        ],
        version_policy=_version_policy(*loaded.config.versions),
        instance_group=[
            {
                "name": loaded.name,
                "count": loaded.config.instances,
                "kind": "KIND_CPU" if loaded.session.providers[0] == _CPU else "KIND_GPU",
            }
        ],
    )
    if loaded.batching.enabled:
        config.dynamic_batching.CopyFrom(_batching(loaded))
    for name, text in loaded.config.parameters.items():
        config.parameters[name].string_value = text
    if loaded.card is not None:
        config.parameters[CARD_KEY].string_value = card_to_json(loaded.card)
    config.parameters[DIGEST_KEY].string_value = loaded.digest
    return config


def _tensor(spec: TensorSpec, *, batched: bool) -> Mapping[str, Any]:
    name = "STRING" if spec.type is STRING else spec.type.open_inference
    return {
        "name": spec.name,
        "data_type": f"TYPE_{name}",
        "dims": spec.shape[1:] if batched else spec.shape,
    }


def _image_format(spec: TensorSpec) -> str:
    image = spec.role == model_card_pb2.TENSOR_ROLE_IMAGE and len(spec.shape) == 4
    return "FORMAT_NHWC" if image else "FORMAT_NONE"


def _version_policy(kind: str, which: int | tuple[int, ...]) -> Mapping[str, Any]:
    if kind == "latest":
        return {"latest": {"num_versions": which}}
    return {"specific": {"versions": which}} if kind == "specific" else {"all": {}}


def _batching(loaded: Loaded) -> Any:
    config = loaded.config
    batching = kind("ModelDynamicBatching")(
        preferred_batch_size=[loaded.batching.max_rows],
        max_queue_delay_microseconds=round(config.max_queue_delay * 1e6),
        priority_levels=config.priorities,
        default_priority_level=config.default_priority,
    )
    if config.max_queue_size or config.default_timeout:
        policy = batching.default_queue_policy
        policy.max_queue_size = config.max_queue_size
        policy.default_timeout_microseconds = round(config.default_timeout * 1e6)
        policy.allow_timeout_override = config.allow_timeout_override
    return batching
