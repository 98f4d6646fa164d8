"""Where settings come from.

A flag wins over the environment (`FORWARDPASS_PORT`), which wins over the TOML file of `--config`,
which wins over the default.
"""

import argparse
import inspect
import os
import sys
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from pydantic import ValidationError
from pydantic_settings import CliSettingsSource

from forwardpass.server.errors import nearest
from forwardpass.server.settings import PREFIX, SECRETS, Settings, SettingsError
from forwardpass.server.transport.address import SOCKET

# What a variable begins with that Kubernetes has set for a Service.
_LINKED = ("tcp://", "udp://", "sctp://")
# Variables of the client and the trainer, which share the prefix.
_OTHERS = {"FORWARDPASS_SERVER", "FORWARDPASS_TOKEN", "FORWARDPASS_CACHE"}


class _Parser(argparse.ArgumentParser):
    """Names the nearest flag when one is not known."""

    def error(self, message: str) -> NoReturn:
        unknown = message.removeprefix("unrecognized arguments: ").split()
        if unknown and unknown[0].startswith("--") and message.startswith("unrecognized"):
            known = [option for action in self._actions for option in action.option_strings]
            # Without what it was given: the flag that was meant may be that of a secret.
            flag = unknown[0].split("=")[0]
            message = f"unrecognized argument: {flag}{nearest(flag, known)}"
        self.print_usage(sys.stderr)
        self.exit(2, f"{self.prog}: error: {message}\n")


class _Version(argparse.Action):
    """Looks the version up only where somebody asks for it: it takes milliseconds."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        from importlib.metadata import version

        sys.stdout.write(f"forwardpass {version('forwardpass')}\n")
        parser.exit()


def load(arguments: Sequence[str]) -> Settings:
    """Returns the settings of a command line, with the environment and the file behind it.

    Raises:
        SettingsError: A variable or key that is unknown, or a value that is wrong.
        SystemExit: A flag that is unknown, or --help.
    """
    parser = _Parser(
        prog="forwardpass-serve",
        description=inspect.getdoc(Settings),
        epilog="forwardpass-serve check MODELS [options] loads and measures every model, says what "
        "came of it, a line of JSON each, and serves nothing.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="Print the version and exit.")
    parser.add_argument("--config", type=Path, help="A TOML file of settings, by these names.")
    source: CliSettingsSource[argparse.ArgumentParser] = CliSettingsSource(
        Settings, root_parser=parser
    )
    config = parser.parse_known_args(arguments)[0].config
    config = config or os.environ.get(f"{PREFIX}CONFIG")
    _check_environment(os.environ)
    table = _read_table(Path(config)) if config else {}
    try:
        flags = source(args=list(arguments))
        settings = Settings(_cli_settings_source=flags, **table)
    except ValidationError as error:
        raise SettingsError(_explain(error)) from None
    _check_cuda(settings)
    _check_tokens(settings)
    _check_workers(settings)
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


def _explain(error: ValidationError) -> str:
    first = error.errors()[0]
    name = ".".join(map(str, first["loc"]))
    is_shown = first["type"] != "missing" and name not in SECRETS
    given = f", got {first['input']!r}" if is_shown else ""
    return f"setting {name!r}: {first['msg'].removeprefix('Value error, ')}{given}"
