"""Every setting of the server, in one frozen object; `settings_sources` reads them.

`options` makes the options of the command line from these fields.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from enum import Enum
from ipaddress import AddressValueError, IPv6Address
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator, model_validator

from forwardpass.server.errors import nearest, quote
from forwardpass.wire import MAX_IMAGE_PIXELS

PREFIX = "FORWARDPASS_"
# Ten days; gRPC core counts milliseconds in 31 bits.
_MAX_SECONDS = 864_000.0
_PROVIDERS = ("cpu", "cuda")
# What no message shows, and no other process is told.
SECRETS = frozenset({"management_token"})


class SettingsError(ValueError):
    """A setting that is unknown or has a wrong value; the message names it."""


@contextmanager
def naming(*settings: str) -> Iterator[None]:
    """Puts the names of settings before what an address of theirs is refused with, inside."""
    try:
        yield
    except OSError as error:
        names = " and ".join(map(repr, settings))
        raise OSError(f"setting{'s' * (len(settings) > 1)} {names}: {error}") from error


class Group(Enum):
    """Which settings `--help` shows together, and under which heading."""

    LISTENING = "Listening"
    REQUESTS = "Requests"
    LIMITS = "Limits"
    CONNECTIONS = "Connections"
    RUNS = "Running models"
    GPU = "GPU"
    MODELS = "Loading models"
    MANAGEMENT = "Management"
    TOKENS = "Tokens"
    STOPPING = "Stopping"
    TLS = "TLS"
    LOG = "Log"


class Settings(BaseModel):
    """Serves the models of a repository over gRPC."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    models: Path = Field(description="The model repository: <name>/<version>/model.onnx.")
    host: Annotated[str, Group.LISTENING] = Field(
        "127.0.0.1",
        description="The address to listen on, of IPv6 with or without brackets; unix:/PATH for a "
        "unix-domain socket, without port.",
    )
    port: Annotated[int, Group.LISTENING] = Field(
        8001, ge=0, le=65535, description="The gRPC port; 0 takes a free one."
    )
    metrics_host: Annotated[str, Group.LISTENING] = Field(
        "127.0.0.1", description="The address of /metrics, /livez and /readyz."
    )
    metrics_port: Annotated[int, Group.LISTENING] = Field(
        8002, ge=0, le=65535, description="Their port; 0 takes a free one."
    )
    max_message_bytes: Annotated[int, Group.REQUESTS] = Field(
        64 << 20, ge=1 << 10, le=1 << 30, description="The longest message, in either direction."
    )
    compress_answers: Annotated[bool, Group.REQUESTS] = Field(
        default=False, description="Compress answers, as gzip, for callers that take that."
    )
    max_in_flight: Annotated[int, Group.LIMITS] = Field(
        256, ge=1, le=4096, description="The most calls at a time; more are refused at once."
    )
    max_in_flight_bytes: Annotated[int, Group.LIMITS] = Field(
        0,
        ge=0,
        description="The most bytes of requests at a time, and of what they become; 0 takes a "
        "sixteenth of the memory of the container or the machine.",
    )
    max_streams: Annotated[int, Group.LIMITS] = Field(
        256, ge=1, description="The most streams of requests at a time."
    )
    max_watches: Annotated[int, Group.LIMITS] = Field(
        1000, ge=1, description="The most calls that watch health."
    )
    connection_share: Annotated[float, Group.LIMITS] = Field(
        0.5,
        gt=0,
        le=1,
        description="Of the second half of each of these, the part that one connection, or one "
        "name of a tokens_file, may have while others want some.",
    )
    max_queued: Annotated[int, Group.LIMITS] = Field(
        1024, ge=1, description="The most requests that wait for one version of a model."
    )
    max_connections: Annotated[int, Group.CONNECTIONS] = Field(
        1000, ge=1, description="The most connections; more are closed at once."
    )
    connection_seconds: Annotated[float, Group.CONNECTIONS] = Field(
        300.0,
        gt=0,
        le=_MAX_SECONDS,
        description="How long a connection takes calls, give or take a tenth; then callers connect "
        "anew.",
    )
    connection_grace_seconds: Annotated[float, Group.CONNECTIONS] = Field(
        30.0,
        ge=0,
        le=_MAX_SECONDS,
        description="How long its calls may then take to end, streams among them.",
    )
    run_memory_bytes: Annotated[int, Group.LIMITS] = Field(
        0,
        ge=0,
        description="The most memory of runs of models on the CPU, without weights; 0 takes a "
        "quarter of that of the container or the machine.",
    )
    connection_idle_seconds: Annotated[float, Group.CONNECTIONS] = Field(
        60.0,
        gt=0,
        le=_MAX_SECONDS,
        description="How long a connection may have no call, before its place is another's.",
    )
    max_image_pixels: Annotated[int, Group.REQUESTS] = Field(
        MAX_IMAGE_PIXELS, ge=1, description="The most pixels of an encoded image."
    )
    reject_nonfinite: Annotated[bool, Group.REQUESTS] = Field(
        default=False, description="Refuse inputs with NaN or infinities."
    )
    transport: Annotated[Literal["auto", "completion_queue", "stock"], Group.LISTENING] = Field(
        "auto",
        description="completion_queue is the fast one; stock uses grpcio's public interface alone. "
        "auto: the fast one where the installed grpcio passes its trial.",
    )
    scheduling_policy: Annotated[Literal["auto", "batch", "other"], Group.RUNS] = Field(
        "auto",
        description="Linux's policy for the server's threads: batch answers more calls on a busy "
        "core, other waits less for other programs there. auto: by the load.",
    )
    workers: Annotated[int, Group.RUNS] = Field(
        1,
        ge=1,
        le=256,
        description="Processes that serve the port, each with every model and limits of its own.",
    )
    threads: Annotated[int, Group.RUNS] = Field(
        0,
        ge=0,
        le=1024,
        description="Threads for one run of a model; 0 takes a worker's share of the CPU quota.",
    )
    providers: Annotated[tuple[str, ...], Group.RUNS] = Field(
        ("cpu",),
        description="What runs the models, in order: cpu, cuda. cuda,cpu gives the CPU what a GPU "
        "cannot do; with cuda alone such a model fails.",
    )
    cuda_device: Annotated[int, Group.GPU] = Field(0, ge=0, description="The GPU to use.")
    cuda_memory_bytes: Annotated[int, Group.GPU] = Field(
        0, ge=0, description="The most memory of the GPU's arena, without weights; 0 takes all."
    )
    cuda_arena: Annotated[Literal["kSameAsRequested", "kNextPowerOfTwo"], Group.GPU] = Field(
        "kSameAsRequested", description="How the arena grows (ONNX Runtime's names)."
    )
    cuda_convolutions: Annotated[Literal["HEURISTIC", "EXHAUSTIVE", "DEFAULT"], Group.GPU] = Field(
        "HEURISTIC",
        description="How cuDNN finds an algorithm; EXHAUSTIVE measures again for each new shape.",
    )
    cuda_ordered_copies: Annotated[bool, Group.GPU] = Field(
        default=True, description="Copy in the stream that computes; without it copies may race."
    )
    cuda_tf32: Annotated[bool, Group.GPU] = Field(
        default=False,
        description="Round float32 to TF32 in products, which keeps 3 digits: faster.",
    )
    cuda_graph: Annotated[bool, Group.GPU] = Field(
        default=False,
        description="Capture runs in CUDA graphs when a model is loaded, and replay them; every "
        "operator must run on the GPU, and runs of all models take turns.",
    )
    verify: Annotated[Literal["auto", "require"], Group.MODELS] = Field(
        "auto",
        description="auto: a manifest that is there is enforced. require: every version needs one.",
    )
    readiness: Annotated[Literal["all", "any"], Group.MODELS] = Field(
        "all",
        description="When a start makes the server ready: with all models, or with any.",
    )
    watch: Annotated[bool, Group.MODELS] = Field(
        default=False, description="Look for new versions and models while serving."
    )
    follow_links: Annotated[tuple[Path, ...], Group.MODELS] = Field(
        (),
        description="Folders outside of the repository where links in it may end, by commas; "
        "links that end in the repository are followed anyway.",
    )
    sandbox: Annotated[bool, Group.MODELS] = Field(
        default=True, description="Try each graph in a process of its own before loading it."
    )
    sandbox_seconds: Annotated[float, Group.MODELS] = Field(
        60.0, gt=0, description="How long that may take."
    )
    sandbox_bytes: Annotated[int, Group.MODELS] = Field(
        4 << 30, ge=0, description="The memory it may take, beyond what its size explains."
    )
    cache_dir: Annotated[Literal["auto", "off"] | Path, Group.MODELS] = Field(
        "auto",
        description="Where it is kept which graphs the sandbox has tried, and how long runs take. "
        "auto: ~/.cache/forwardpass/verified. off: nowhere.",
    )
    reflection: Annotated[bool, Group.LISTENING] = Field(
        default=False, description="Answer gRPC server reflection."
    )
    management_port: Annotated[int | None, Group.MANAGEMENT] = Field(
        None,
        ge=0,
        le=65535,
        description="Answer management calls (LoadModel, UnloadModel) on this port of the loopback "
        "address; the gRPC port itself makes them available there.",
    )
    management_token: Annotated[SecretStr | None, Group.MANAGEMENT] = Field(
        None, description="What management calls must carry. Better set by the environment."
    )
    management_token_file: Annotated[Path | None, Group.MANAGEMENT] = Field(
        None,
        description="A file of tokens, any of which is enough: one a line, at most two. It is read "
        "again when it changes.",
    )
    tokens_file: Annotated[Path | None, Group.TOKENS] = Field(
        None,
        description="A TOML file of tokens, of which every call then has to carry one that permits "
        "it, except of health. It is read again when it changes.",
    )
    tokens_without_tls: Annotated[bool, Group.TOKENS] = Field(
        default=False,
        description="Take tokens without TLS also where others can reach the port, as something "
        "else encrypts: a service mesh, or a proxy.",
    )
    health_needs_token: Annotated[bool, Group.TOKENS] = Field(
        default=False,
        description="Have calls of health, too, carry a token, which permits to read.",
    )
    drain_delay_seconds: Annotated[float, Group.STOPPING] = Field(
        0.0,
        ge=0,
        le=_MAX_SECONDS,
        description="How long calls are still taken at shutdown, while probes say not ready.",
    )
    drain_seconds: Annotated[float, Group.STOPPING] = Field(
        30.0, ge=0, description="How long accepted calls may take to end at shutdown."
    )
    tls_certificate: Annotated[Path | None, Group.TLS] = Field(
        None,
        description="PEM file of the certificate chain. The files of TLS are read again when they "
        "change.",
    )
    tls_key: Annotated[Path | None, Group.TLS] = Field(
        None, description="PEM file of its private key."
    )
    tls_client_ca: Annotated[Path | None, Group.TLS] = Field(
        None, description="PEM file of the authorities that callers' certificates may be of."
    )
    metrics_tls: Annotated[bool, Group.TLS] = Field(
        default=False,
        description="Serve /metrics and the probes by TLS, with the same certificate; callers need "
        "none there.",
    )
    log_format: Annotated[Literal["auto", "json", "plain"], Group.LOG] = Field(
        "auto", description="auto: plain on a terminal, else JSON."
    )
    log_level: Annotated[Literal["debug", "info", "warning", "error"], Group.LOG] = Field(
        "info", description="debug has a line for every call."
    )

    @property
    def stop_seconds(self) -> float:
        """How long a shutdown may take for the calls' sake."""
        return self.drain_delay_seconds + self.drain_seconds

    @model_validator(mode="before")
    @classmethod
    def _take_environment(cls, given: dict[str, Any]) -> dict[str, Any]:
        """Takes from the environment what is not given."""
        return {**read_environment(os.environ), **given}

    @field_validator("host", "metrics_host")
    @classmethod
    def _check_address(cls, given: str) -> str:
        """Takes names and addresses, those of IPv6 with brackets and without."""
        if given.startswith("unix:"):
            return given
        bare = given[1:-1] if given[:1] == "[" and given[-1:] == "]" else given
        if not bare:
            raise ValueError("it is empty; 0.0.0.0 or :: is every address of this machine")
        if ":" in bare or bare != given:
            try:
                IPv6Address(bare)
            except AddressValueError:
                raise ValueError("a name or an address is needed, without a port") from None
        return bare

    @field_validator("host")
    @classmethod
    def _check_socket(cls, given: str) -> str:
        """Takes "unix:/run/forwardpass.sock", and gRPC's other way of writing it, "unix:///run"."""
        scheme, colon, path = given.partition(":")
        if scheme != "unix" or not colon:
            return given
        if not path.startswith("/"):
            raise ValueError("the path of a socket is absolute: unix:/run/forwardpass.sock")
        return f"unix:/{path.lstrip('/')}"

    @field_validator("follow_links", mode="before")
    @classmethod
    def _split_folders(cls, given: object) -> object:
        """Takes "/cache,/data", and lists of such."""
        texts = [given] if isinstance(given, str | Path) else given
        if not isinstance(texts, list | tuple):
            return given
        folders = [Path(part.strip()) for text in texts for part in str(text).split(",")]
        for folder in folders:
            if not folder.is_absolute():
                raise ValueError(f"{quote(str(folder))} is not an absolute path")
        return tuple(folders)

    @field_validator("providers", mode="before")
    @classmethod
    def _split_providers(cls, given: object) -> object:
        """Takes "cuda,cpu", and lists of such."""
        texts = [given] if isinstance(given, str) else given
        if not isinstance(texts, list | tuple) or not all(isinstance(t, str) for t in texts):
            return given
        names = tuple(name.strip() for text in texts for name in text.split(","))
        for name in names:
            if name not in _PROVIDERS:
                raise ValueError(
                    f"no provider {quote(name)}{nearest(name, _PROVIDERS)}; "
                    f"there are {', '.join(_PROVIDERS)}"
                )
        if len(set(names)) != len(names):
            raise ValueError("a provider is named twice")
        return names


def read_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Returns the settings that variables give, by their names; case does not matter."""
    given = {name.upper(): value for name, value in environment.items()}
    variables = {name: PREFIX + name.upper() for name in Settings.model_fields}
    return {name: given[variable] for name, variable in variables.items() if variable in given}
