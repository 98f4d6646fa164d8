"""The command line of the server as a program: its help, its mistakes, what a shell completes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_models import Publisher, classifier

from forwardpass.server.options import parse
from forwardpass.server.settings import Group, Settings

FLAGS = {name: f"--{name.replace('_', '-')}" for name in Settings.model_fields if name != "models"}
PROGRAM = Path(sys.executable).parent / "forwardpass-serve"


def run(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [PROGRAM, *map(str, arguments)],
        env=os.environ | {"COLUMNS": "200"} | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def complete(words: str, folder: Path) -> list[str]:
    """Returns what a shell would offer for the last word of a line."""
    code = "from forwardpass.server.cli import main; main()"
    shell = {"_FORWARDPASS_SERVE_COMPLETE": "complete_bash", "COMP_WORDS": words}
    ended = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | shell | {"COMP_CWORD": str(words.count(" "))},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return ended.stdout.split()


@pytest.mark.parametrize("command", [(), ("check",)])
def test_the_help_has_every_setting_under_the_heading_of_its_group(command: tuple[str]) -> None:
    ended = run(*command, "--help")
    assert (ended.returncode, ended.stderr) == (0, "")
    heading, found = "", {}
    for line in ended.stdout.splitlines():
        if line.startswith("╭─ "):
            heading = line.split(" ─")[0].removeprefix("╭─ ")
        elif line.startswith("│ --"):
            found[line.split()[1]] = heading
    for name, flag in FLAGS.items():
        (group,) = (
            mark for mark in Settings.model_fields[name].metadata if isinstance(mark, Group)
        )
        assert found.pop(flag) == group.value, name
    assert set(found.values()) == {"Options"}
    assert "--config" in found


def test_check_is_a_command_with_a_page_of_its_own() -> None:
    page = run("--help").stdout
    assert "─ Commands ─" in page
    assert "check" in page.partition("─ Commands ─")[2]
    told = run("check", "--help").stdout
    assert "Usage: forwardpass-serve check [OPTIONS] [MODELS]" in told
    assert "serves nothing" in told
    assert "Commands" not in told


@pytest.mark.parametrize("flags", [("--threads", "1"), ("--threads=1", "--log-level", "error")])
def test_check_takes_options_before_and_after_the_folder(
    repository: Publisher, flags: tuple[str, ...]
) -> None:
    repository("clf", classifier())
    for arguments in ((repository.root, *flags), (*flags, repository.root)):
        ended = run("check", *arguments, "--no-sandbox")
        assert (ended.returncode, ended.stdout.count("\n")) == (0, 1), ended.stderr
        assert '"clf"' in ended.stdout


def test_only_what_was_typed_is_given() -> None:
    given = parse(["--port", "8001", "models", "--no-watch", "--providers", "cuda", "--sandbox"])
    assert not given.checks
    assert given.config is None
    assert given.flags == {
        "models": Path("models"),
        "port": "8001",
        "watch": False,
        "providers": ["cuda"],
        "sandbox": True,
    }
    given = parse(["check", "--config", "a.toml"])
    assert (given.checks, given.config, given.flags) == (True, Path("a.toml"), {})
    assert parse(["--", "check"]).flags == {"models": Path("check")}


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        ("chek models", "no command 'chek' (did you mean 'check'?)"),
        ("models more", "unrecognized argument: more"),
        ("models --prot 1", "unrecognized argument: --prot (did you mean '--port'?)"),
        ("check models --prot=1", "unrecognized argument: --prot (did you mean '--port'?)"),
        ("models --no-wach", "unrecognized argument: --no-wach (did you mean '--no-watch'?)"),
        ("models --max-in 3", "unrecognized argument: --max-in"),
        ("models --port", "Option '--port' requires an argument."),
        ("models --watch=yes", "Option '--watch' does not take a value."),
    ],
)
def test_a_mistake_is_told_with_what_is_near(
    capsys: pytest.CaptureFixture[str], typed: str, told: str
) -> None:
    with pytest.raises(SystemExit) as ended:
        parse(typed.split())
    assert ended.value.code == 2
    printed = capsys.readouterr()
    assert f"forwardpass-serve: error: {told}" in printed.err
    assert printed.out == ""


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("forwardpass-serve ", ["check", "charts", "models"]),
        ("forwardpass-serve ch", ["check", "charts"]),
        # The shell's own files are offered instead.
        ("forwardpass-serve mo", []),
        ("forwardpass-serve check ch", []),
        ("forwardpass-serve models --max-in", ["--max-in-flight", "--max-in-flight-bytes"]),
        ("forwardpass-serve check models --no-wa", ["--no-watch"]),
        ("forwardpass-serve --log-level ", ["debug", "info", "warning", "error"]),
        ("forwardpass-serve check models --cache-dir o", ["off"]),
        ("forwardpass-serve models --tls-key ", []),
    ],
)
def test_a_shell_completes(tmp_path: Path, typed: str, offered: list[str]) -> None:
    for name in ("models", "charts"):
        (tmp_path / name).mkdir()
    assert complete(typed, tmp_path) == offered


def test_completion_is_set_up_from_what_the_program_prints() -> None:
    # Which shell it is, the program learns from the process that started it.
    script = f'eval "$({PROGRAM} --show-completion)"; complete -p forwardpass-serve'
    ended = subprocess.run(
        ["bash", "--norc", "-c", script], capture_output=True, text=True, timeout=60, check=False
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.endswith(" forwardpass-serve\n")
