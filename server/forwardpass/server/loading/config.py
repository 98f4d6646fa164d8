"""A model's config.pbtxt, as Triton writes it: what of it is honoured, and what is refused.

Every field that is set, at any depth, is honoured, named in a warning, or refused where leaving it
out would change answers; `config_text` tells them apart.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

import structlog

from forwardpass.artefact import MODEL_FILE
from forwardpass.server.errors import quote
from forwardpass.server.loading.config_text import CONFIG_FILE, ConfigError, read_text
from forwardpass.server.loading.files import FileError, NamedFile, RepositoryFiles
from forwardpass.server.onnx.signature import Signature, TensorSpec
from forwardpass.wire.dtypes import ELEMENT_TYPES
from forwardpass.wire.open_inference import message_class

_MAX_BYTES = 1 << 20
_MAX_LABEL_BYTES = 16 << 20
_MAX_WARMUPS = 1000
_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Warmup:
    """Requests to make before a version is ready.

    Attributes:
        rows: Rows of each; 0 for a model without a batch axis.
        count: How many.
        inputs: By name: (extents without the batch axis, "zero", "random" or a file).
    """

    rows: int
    count: int
    inputs: Mapping[str, tuple[tuple[int, ...], str | NamedFile]]


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """What a configuration decides; the defaults are those of a model without one.

    Attributes:
        max_batch_size: The most rows of a request; 0 where there is no batch axis; None where the
            configuration does not say.
        dynamic_batching: Whether to gather requests; None leaves it to the measured curve.
        max_queue_delay: Seconds a request may wait for others.
        max_queue_size: The most requests that wait; 0 takes the server's own limit.
        default_timeout: Seconds that a request may wait for its turn; 0 for any number.
        allow_timeout_override: Whether a request may ask for less than that.
        priorities: How many priorities there are; 0 for none.
        default_priority: The priority of a request that states none, from 1.
        instances: How many runs may be under way at a time.
        versions: The versions to serve: ("latest", n), ("all", 0) or ("specific", numbers).
        label_files: By output, the file of the model's folder that names its classes.
        tensors: Inputs and outputs as stated: (name, OIP-free element name, extents).
        warmups: Requests to make before a version is ready.
        parameters: Texts that travel with it.
    """

    max_batch_size: int | None = None
    dynamic_batching: bool | None = None
    max_queue_delay: float = 0.0
    max_queue_size: int = 0
    default_timeout: float = 0.0
    allow_timeout_override: bool = False
    priorities: int = 0
    default_priority: int = 0
    instances: int = 1
    versions: tuple[str, int | tuple[int, ...]] = ("latest", 1)
    label_files: Mapping[str, NamedFile] | None = None
    inputs: Sequence[tuple[str, str, tuple[int, ...]]] = ()
    outputs: Sequence[tuple[str, str, tuple[int, ...]]] = ()
    warmups: Sequence[Warmup] = ()
    parameters: Mapping[str, str] = field(default_factory=dict)

    @property
    def first_priority(self) -> int:
        """The priority of a request that states none, from 0 as jobs have it."""
        return max(0, self.default_priority - 1)

    def timeout(self, asked: float | None) -> float | None:
        """Returns how many seconds a request may wait for its turn; None for any number.

        Args:
            asked: What it asks for.
        """
        if not self.default_timeout:
            return asked
        if asked is None or not self.allow_timeout_override:
            return self.default_timeout
        return min(asked, self.default_timeout)


def read_config(files: RepositoryFiles, folder: Path) -> ModelConfig:
    """Returns the configuration in a model's folder; the defaults where there is none.

    Args:
        files: Opens it, and the files that it names.
        folder: MODELS/<name>.

    Raises:
        ConfigError: It cannot be read, or not be honoured.
    """
    try:
        data = files.read(folder / CONFIG_FILE, _MAX_BYTES)
    except FileNotFoundError:
        return ModelConfig()
    except FileError as error:
        raise ConfigError(str(error)) from None
    except OSError as error:
        raise ConfigError(f"cannot read {CONFIG_FILE}: {error.strerror}") from None
    text = read_text(data)
    for name in text.ignored:
        _log.warning("config_field_ignored", model=folder.name, field=name)
    _refuse(folder, text.message)
    return _honour(files, folder, text.message, text.fields)


def read_labels(file: NamedFile, files: RepositoryFiles) -> Sequence[str]:
    """Returns the name of each class, a line each.

    Raises:
        ConfigError: The file is no text.
        FileError: The file must not be read.
    """
    data = files.read(file.path, _MAX_LABEL_BYTES)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigError(
            f"{CONFIG_FILE}: {file.path.name} is not UTF-8, but {_guess_encoding(data)} by its "
            f"bytes (line {line}); write it anew as UTF-8"
        ) from None
    # Not `splitlines`: a label may hold what Unicode counts among the ends of lines.
    lines = [line.removesuffix("\r") for line in text.split("\n")]
    return lines if lines[-1] else lines[:-1]


def _guess_encoding(data: bytes) -> str:
    marked = data.startswith((b"\xff\xfe", b"\xfe\xff"))
    return "UTF-16" if marked or b"\0" in data else "Latin-1 or another of one byte a character"


def check_tensors(config: ModelConfig, signature: Signature) -> None:
    """Compares the tensors that the configuration states with the graph's.

    Raises:
        ConfigError: One has another name, type or extents.
    """
    for kind, stated, specs in (
        ("input", config.inputs, signature.inputs),
        ("output", config.outputs, signature.outputs),
    ):
        for name, element, extents in stated:
            spec = specs.get(name)
            if spec is None:
                raise ConfigError(
                    f"{CONFIG_FILE} states {kind} {quote(name)}; "
                    f"the graph has {', '.join(map(quote, specs))}"
                )
            if element != spec.type.name or _whole(config, extents, spec) is None:
                whole = (-1, *extents) if config.max_batch_size else extents
                raise ConfigError(
                    f"{CONFIG_FILE} states {kind} {quote(name)} as {element} {list(whole)}, "
                    f"but the graph has {spec.type.name} {list(spec.shape)}"
                )
    missing = [name for name in signature.inputs if name not in {one[0] for one in config.inputs}]
    if config.inputs and missing:
        raise ConfigError(
            f"{CONFIG_FILE} states inputs, but not {quote(missing[0])}, which the graph takes too"
        )


def narrowed(config: ModelConfig, signature: Signature) -> Signature:
    """Returns the signature with what the configuration states of it.

    Extents that the graph leaves open are as stated, and where outputs are stated, there are no
    others.

    Args:
        config: What `check_tensors` has passed.
        signature: What card and graph say.
    """

    def narrow(spec: TensorSpec, extents: tuple[int, ...]) -> TensorSpec:
        whole = _whole(config, extents, spec)
        if whole is None or not spec.ranked:
            return spec
        pairs = zip(whole, spec.shape, strict=True)
        return replace(spec, shape=tuple(b if a == -1 else a for a, b in pairs))

    inputs, outputs = dict(signature.inputs), dict(signature.outputs)
    for name, _, extents in config.inputs:
        inputs[name] = narrow(inputs[name], extents)
    stated = {name: extents for name, _, extents in config.outputs}
    if stated:
        # What carries a state is needed, stated or not.
        states = {after: outputs[after].shape for _, after in signature.states}
        kept = {**states, **stated}
        outputs = {name: narrow(spec, kept[name]) for name, spec in outputs.items() if name in kept}
    return replace(signature, inputs=inputs, outputs=outputs)


def _whole(
    config: ModelConfig, extents: tuple[int, ...], spec: TensorSpec
) -> tuple[int, ...] | None:
    """Returns stated extents with the batch axis, if there is one; None where they do not fit.

    A configuration that does not say whether there is one may leave it out or not.
    """
    batched = (-1, *extents)
    choices = [batched] if config.max_batch_size else [extents]
    if config.max_batch_size is None:
        choices.append(batched)
    if not spec.ranked:
        return choices[0]
    for choice in choices:
        if len(choice) == len(spec.shape) and all(
            -1 in (ours, theirs) or ours == theirs
            for ours, theirs in zip(choice, spec.shape, strict=True)
        ):
            return choice
    return None


def _refuse(folder: Path, message: Any) -> None:
    """Raises where a field that we know asks for what we do not do."""
    name, platform, backend = message.name, message.platform, message.backend
    file, rows = message.default_model_filename, message.max_batch_size
    demands = [
        (name not in ("", folder.name), f"name is {quote(name)}, the folder's another"),
        (platform not in ("", "onnxruntime_onnx"), f"platform {quote(platform)} is not served"),
        (backend not in ("", "onnxruntime"), f"backend {quote(backend)} is not served"),
        (file not in ("", MODEL_FILE), f"default_model_filename must be {MODEL_FILE}"),
        (message.model_transaction_policy.decoupled, "decoupled models are not supported"),
        (rows < 0, f"max_batch_size is {rows}"),
    ]
    for tensor in (*message.input, *message.output):
        reshaped = tensor.HasField("reshape") or tensor.is_shape_tensor
        demands.append((reshaped, f"the reshape of {quote(tensor.name)} is not supported"))
    for tensor in message.input:
        odd = tensor.allow_ragged_batch or tensor.optional
        demands.append((odd, f"{quote(tensor.name)} is ragged or optional: not supported"))
    for refused, why in demands:
        if refused:
            raise ConfigError(f"{CONFIG_FILE}: {why}")


def _honour(
    files: RepositoryFiles, folder: Path, message: Any, fields: Collection[str]
) -> ModelConfig:
    batching = message.dynamic_batching
    policy = batching.default_queue_policy
    states_batching = message.HasField("dynamic_batching")
    return ModelConfig(
        # A configuration that says nothing of it, such as one for labels alone, does not say 0.
        max_batch_size=message.max_batch_size if "max_batch_size" in fields else None,
        dynamic_batching=True if states_batching else None,
        max_queue_delay=batching.max_queue_delay_microseconds / 1e6,
        max_queue_size=policy.max_queue_size,
        default_timeout=policy.default_timeout_microseconds / 1e6,
        allow_timeout_override=policy.allow_timeout_override,
        priorities=batching.priority_levels,
        default_priority=batching.default_priority_level,
        instances=_instances(message),
        versions=_versions(message),
        label_files={
            output.name: _inside(files, folder, output.label_filename)
            for output in message.output
            if output.label_filename
        },
        inputs=[_tensor(tensor) for tensor in message.input],
        outputs=[_tensor(tensor) for tensor in message.output],
        warmups=[_warmup(files, folder, warmup) for warmup in message.model_warmup],
        parameters={name: one.string_value for name, one in message.parameters.items()},
    )


def _instances(message: Any) -> int:
    count = sum(max(1, group.count) for group in message.instance_group) or 1
    if count > 64:
        raise ConfigError(f"{CONFIG_FILE}: {count} instances; at most 64 are run")
    return count


def _versions(message: Any) -> tuple[str, int | tuple[int, ...]]:
    choice = message.version_policy.WhichOneof("policy_choice")
    if choice == "all":
        return "all", 0
    if choice == "specific":
        return "specific", tuple(message.version_policy.specific.versions)
    return "latest", message.version_policy.latest.num_versions or 1


def _tensor(tensor: Any) -> tuple[str, str, tuple[int, ...]]:
    return tensor.name, _element(tensor.data_type), tuple(tensor.dims)


def _element(data_type: int) -> str:
    """Returns our name of one of Triton's element types: TYPE_FP32 is float32."""
    names = message_class("ModelConfig").DESCRIPTOR.file.enum_types_by_name["DataType"]
    triton = names.values_by_number[data_type].name.removeprefix("TYPE_")
    wanted = "BYTES" if triton == "STRING" else triton
    return next((t.name for t in ELEMENT_TYPES if t.open_inference == wanted), "nothing")


def _warmup(files: RepositoryFiles, folder: Path, message: Any) -> Warmup:
    inputs: dict[str, tuple[tuple[int, ...], str | NamedFile]] = {}
    for name, given in message.inputs.items():
        choice = given.WhichOneof("input_data_type")
        if choice == "input_data_file":
            source: str | NamedFile = _inside(files, folder / "warmup", given.input_data_file)
        else:
            source = "random" if choice == "random_data" else "zero"
        inputs[name] = tuple(given.dims), source
    if message.count > _MAX_WARMUPS:
        raise ConfigError(
            f"{CONFIG_FILE}: {message.count} warm-ups; at most {_MAX_WARMUPS} are made"
        )
    return Warmup(message.batch_size, max(1, message.count), inputs)


def _inside(files: RepositoryFiles, folder: Path, name: str) -> NamedFile:
    """Returns a file of the folder that a configuration names."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\0" in name:
        raise ConfigError(f"{CONFIG_FILE}: {quote(name)} is not a file of the model's folder")
    try:
        return NamedFile(folder / path, files.stamp(folder / path))
    except FileError as error:
        raise ConfigError(f"{CONFIG_FILE}: {error}") from None
    except OSError as error:
        raise ConfigError(f"{CONFIG_FILE}: no file {quote(name)}: {error.strerror}") from None
