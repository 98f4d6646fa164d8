"""The command line: an option for each field of `Settings`, under the heading of its group.

A value is passed on as it was typed. `Settings` checks it, wherever it comes from.
"""

import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Literal, get_args, get_origin

import typer
from pydantic import SecretStr
from pydantic.fields import FieldInfo
from typer.core import TyperGroup
from typer.main import get_command

from forwardpass.server.errors import nearest
from forwardpass.server.settings import Group, Settings

PROGRAM = "forwardpass-serve"
_POSITIONAL = "models"
_EPILOG = (
    "An option is also a variable, FORWARDPASS_MAX_IN_FLIGHT for --max-in-flight, and a key of the "
    "TOML file, max_in_flight. The command line wins over the environment, which wins over the "
    "file."
)
# Public under no name of its own: an argument or option that is wrong.
_UsageError: type[Any] = typer.BadParameter.__mro__[1]


@dataclass(frozen=True, slots=True)
class Given:
    """What was typed.

    Attributes:
        checks: Whether it was the command `check`.
        config: The TOML file, if one was named.
        flags: The settings that were given, by name.
    """

    checks: bool
    config: Path | None
    flags: Mapping[str, object]


def parse(arguments: Sequence[str]) -> Given:
    """Returns what a command line says.

    Raises:
        SystemExit: An option that is unknown, `--help`, `--version`, or a shell that completes.
    """
    try:
        given = get_command(_app()).main(list(arguments), PROGRAM, standalone_mode=False)
    except _UsageError as error:
        context = error.ctx
        if context is not None:
            print(context.get_usage(), file=sys.stderr)  # noqa: T201
        print(f"{PROGRAM}: error: {_explain(error)}", file=sys.stderr)  # noqa: T201
        raise SystemExit(2) from None
    if not isinstance(given, Given):
        raise SystemExit(given)
    return given


class _Command(TyperGroup):
    """Serves, unless the first word is the name of a command."""

    def make_context(
        self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any
    ) -> Any:
        command = self.commands.get(args[0]) if args else None
        if command is None:
            return super().make_context(info_name, args, parent, **extra)
        return command.make_context(f"{info_name} {args[0]}", args[1:], parent, **extra)

    def invoke(self, ctx: Any) -> Any:
        return super().invoke(ctx) if ctx.command is self else ctx.command.invoke(ctx)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Refuses a second word: the first one was taken for the repository."""
        if ctx.resilient_parsing:
            return None, None, []
        first = str(ctx.params[_POSITIONAL])
        if hint := nearest(first, self.commands):
            raise _UsageError(f"no command {first!r}{hint}", ctx)
        raise _UsageError(f"unrecognized argument: {args[0]}", ctx)


def _app() -> typer.Typer:
    """Returns the command line; it holds nothing that is not in `Settings` but `check`."""
    app = typer.Typer(name=PROGRAM, cls=_Command, pretty_exceptions_enable=False)
    context: dict[str, Any] = {
        "allow_interspersed_args": True,
        "help_option_names": ["-h", "--help"],
    }
    settings = [_parameter(name, field) for name, field in Settings.model_fields.items()]
    app.callback(
        invoke_without_command=True,
        subcommand_metavar="",
        help=f"{inspect.getdoc(Settings)}\n\n"
        f"Example: {PROGRAM} models --port 8001\n\n"
        f"Example: {PROGRAM} check models",
        epilog=_EPILOG,
        context_settings=context,
    )(_function([_VERSION, _CONFIG, *settings], checks=False))
    app.command(
        "check",
        help="Loads and measures every model, prints a line of JSON for each, serves nothing.\n\n"
        f"Example: {PROGRAM} check models",
        epilog=_EPILOG,
        context_settings=context,
    )(_function([_CONFIG, *settings], checks=True))
    return app


def _function(parameters: Sequence[inspect.Parameter], *, checks: bool) -> Callable[..., Given]:
    """Returns a function that typer reads as one with these parameters."""

    def given(context: typer.Context, **typed: Any) -> Given:
        flags = {name: typed[name] for name in Settings.model_fields if _was_typed(context, name)}
        return Given(checks, typed["config"], flags)

    signature = inspect.Signature([_keyword("context", typer.Context), *parameters])
    given.__signature__ = signature  # type: ignore[attr-defined]
    given.__annotations__ = {name: each.annotation for name, each in signature.parameters.items()}
    return given


def _was_typed(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def _parameter(name: str, field: FieldInfo) -> inspect.Parameter:
    """Returns the parameter for a setting: what it is called, takes, completes to and says."""
    if name == _POSITIONAL:
        argument = typer.Argument(
            metavar=name.upper(), help=field.description, autocompletion=_complete_command
        )
        return _keyword(name, Annotated[Path | None, argument], None)
    kinds = _kinds(field.annotation)
    choices = [choice for kind in kinds if get_origin(kind) is Literal for choice in get_args(kind)]
    is_switch = kinds == [bool]
    words = name.replace("_", "-")
    option = typer.Option(
        f"--{words}/--no-{words}" if is_switch else f"--{words}",
        metavar=None if is_switch else _metavar(kinds, choices),
        help=field.description,
        rich_help_panel=next(mark.value for mark in field.metadata if isinstance(mark, Group)),
        autocompletion=_complete_from(choices) if choices else None,
    )
    default = field.default
    if is_switch:
        return _keyword(name, Annotated[bool, option], default)
    if get_origin(kinds[0]) is tuple:
        return _keyword(name, Annotated[list[str] | None, option], list(default) or None)
    taken = Path if kinds == [Path] else str
    text = None if default is None else str(default)
    return _keyword(name, Annotated[taken | None, option], text)


def _kinds(annotation: Any) -> list[Any]:
    """Returns the members of a union, without None."""
    members = [annotation] if get_origin(annotation) in {None, Literal, tuple} else None
    return [kind for kind in members or get_args(annotation) if kind is not NoneType]


def _metavar(kinds: Sequence[Any], choices: Sequence[str]) -> str:
    names = {int: "INTEGER", float: "NUMBER", Path: "PATH", SecretStr: "TOKEN"}
    words = [names.get(kind, "TEXT") for kind in kinds if get_origin(kind) is not Literal]
    return "|".join([*choices, *words])


def _keyword(
    name: str, annotation: Any, default: Any = inspect.Parameter.empty
) -> inspect.Parameter:
    kind = inspect.Parameter.KEYWORD_ONLY
    return inspect.Parameter(name, kind, default=default, annotation=annotation)


def _complete_from(choices: Sequence[str]) -> Callable[[str], list[str]]:
    def complete(incomplete: str) -> list[str]:
        return [choice for choice in choices if choice.startswith(incomplete)]

    return complete


def _complete_command(context: typer.Context, incomplete: str) -> list[str]:
    """Returns `check` and folders; none where the shell's own files are enough."""
    commands = getattr(context.command, "commands", ())
    if not (found := [name for name in commands if name.startswith(incomplete)]):
        return []
    folders = (path.name for path in Path().iterdir() if path.is_dir() and path.name[0] != ".")
    return [*found, *sorted(name for name in folders if name.startswith(incomplete))]


def _explain(error: Any) -> str:
    """Returns what is wrong, with the nearest option for one that is unknown.

    Not with the value of that option: the one that was meant may be a secret's.
    """
    flag = getattr(error, "option_name", None)
    if not hasattr(error, "possibilities"):
        return str(error.format_message())
    known = [
        name
        for option in error.ctx.command.get_params(error.ctx)
        for name in (*option.opts, *option.secondary_opts)
        if name.startswith("-")
    ]
    return f"unrecognized argument: {flag}{nearest(str(flag), known)}"


def _print_version(wanted: bool) -> None:
    """Looks the version up only where somebody asks for it: it takes milliseconds."""
    if wanted:
        from importlib.metadata import version

        typer.echo(f"forwardpass {version('forwardpass')}")
        raise typer.Exit


_CONFIG = _keyword(
    "config",
    Annotated[
        Path | None, typer.Option(metavar="FILE", help="A TOML file of settings, by these names.")
    ],
    None,
)
_VERSION = _keyword(
    "version",
    Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and exit."
        ),
    ],
    default=False,
)
