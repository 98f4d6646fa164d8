"""Where settings come from.

A flag wins over the environment (`FORWARDPASS_PORT`), which wins over the TOML file of `--config`,
which wins over the default.
"""

import os
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from forwardpass.server.errors import nearest
from forwardpass.server.options import Given, parse
from forwardpass.server.settings import (
    PREFIX,
    SECRETS,
    Settings,
    SettingsError,
    read_environment,
)
from forwardpass.server.transport.address import SOCKET

# What a variable begins with that Kubernetes has set for a Service.
_LINKED = ("tcp://", "udp://", "sctp://")
# Variables of the client and the trainer, which share the prefix.
_OTHERS = {"FORWARDPASS_SERVER", "FORWARDPASS_TOKEN", "FORWARDPASS_CACHE"}


def load(arguments: Sequence[str]) -> Settings:
    """Returns the settings of a command line, with the environment and the file behind it.

    Raises:
        SettingsError: A variable or key that is unknown, or a value that is wrong.
        SystemExit: A flag that is unknown, or --help.
    """
    return read(parse(arguments))


def read(given: Given) -> Settings:
    """Returns the settings of a parsed command line, as `load` does.

    Raises:
        SettingsError: A variable or key that is unknown, or a value that is wrong.
    """
    config = given.config or os.environ.get(f"{PREFIX}CONFIG")
    _check_environment(os.environ)
    table = _read_table(Path(config)) if config else {}
    try:
        settings = Settings(**{**table, **read_environment(os.environ), **given.flags})
    except ValidationError as error:
        raise SettingsError(_explain(error)) from None
    _check_cuda(settings)
    _check_tokens(settings)
    _check_workers(settings)
    _check_tls(settings)
    return settings


def _read_table(path: Path) -> dict[str, Any]:
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        is_wide = path.read_bytes()[:2] in (b"\xff\xfe", b"\xfe\xff")
        told = "it is UTF-16" if is_wide else f"byte {error.start} is not"
        raise SettingsError(f"{path} has to be UTF-8, as all TOML, but {told}") from None
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"{path} is not TOML: {error}") from None
    for key in table:
        if key not in Settings.model_fields:
            raise SettingsError(
                f"{path}: unknown setting {key!r}{nearest(key, Settings.model_fields)}"
            )
    return table


def _check_environment(environment: Mapping[str, str]) -> None:
    known = {PREFIX + name.upper() for name in (*Settings.model_fields, "config")}
    if (linked := environment.get(f"{PREFIX}PORT", "")).startswith(_LINKED):
        raise SettingsError(
            f"environment variable {PREFIX}PORT is {linked!r}: Kubernetes sets it for a Service of "
            "the name forwardpass; put enableServiceLinks: false into the pod's spec, or give the "
            "Service another name"
        )
    for name in environment:
        if name.startswith(PREFIX) and name not in known | _OTHERS:
            raise SettingsError(f"unknown environment variable {name}{nearest(name, known)}")


def _check_cuda(settings: Settings) -> None:
    given = sorted(name for name in settings.model_fields_set if name.startswith("cuda_"))
    if given and "cuda" not in settings.providers:
        raise SettingsError(
            f"setting {given[0]!r} is for GPUs, but the providers are "
            f"{','.join(settings.providers)}: add --providers cuda,cpu, or leave it out"
        )


def _check_tokens(settings: Settings) -> None:
    if settings.management_token is not None and settings.management_token_file is not None:
        raise SettingsError(
            "settings 'management_token' and 'management_token_file' do not go together: take one "
            "of them; a file may have two tokens"
        )
    if settings.tokens_file is None:
        for name in ("tokens_without_tls", "health_needs_token"):
            if getattr(settings, name):
                raise SettingsError(
                    f"setting {name!r} is for tokens of a tokens_file, which is not given: add "
                    "--tokens-file, or leave it out"
                )
        return
    for name in ("management_token", "management_token_file"):
        if getattr(settings, name) is not None:
            raise SettingsError(
                f"settings 'tokens_file' and {name!r} do not go together: leave the second one "
                "out, and give a token of the file the permission manage"
            )


def _check_workers(settings: Settings) -> None:
    if settings.workers > 1 and settings.management_port is not None:
        raise SettingsError(
            f"setting 'management_port' does not go with {settings.workers} workers: LoadModel "
            "would reach one of them. With --watch all of them take up what appears in the "
            "repository; or take --workers 1"
        )
    if settings.workers > 1 and settings.host.startswith(SOCKET):
        raise SettingsError(
            f"setting 'host' is a socket, which {settings.workers} workers cannot share as they do "
            "a port: take a port, or --workers 1"
        )


def _check_tls(settings: Settings) -> None:
    if settings.metrics_tls and settings.tls_certificate is None:
        raise SettingsError(
            "setting 'metrics_tls' takes a certificate and its key: give --tls-certificate, "
            "--tls-key, or leave it out"
        )


def _explain(error: ValidationError) -> str:
    first = error.errors()[0]
    name = ".".join(map(str, first["loc"]))
    is_shown = first["type"] != "missing" and name not in SECRETS
    given = f", got {first['input']!r}" if is_shown else ""
    return f"setting {name!r}: {first['msg'].removeprefix('Value error, ')}{given}"
