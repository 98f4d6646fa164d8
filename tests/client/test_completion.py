"""What a shell offers while somebody types `forwardpass`: names of models are asked of a server."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import Running, StartServer
from tiny_models import Publisher, classifier, embedder

PROGRAM = Path(sys.executable).parent / "forwardpass"


def complete(words: str, **environment: str) -> list[str]:
    """Returns what a shell would offer for the last word of a line; nothing else may be printed."""
    shell = {"_FORWARDPASS_COMPLETE": "complete_bash", "COMP_WORDS": words}
    ended = subprocess.run(
        [PROGRAM],
        env=os.environ | shell | {"COMP_CWORD": str(words.count(" "))} | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    return ended.stdout.split()


@pytest.fixture
def served(repository: Publisher, start_server: StartServer) -> Running:
    repository("shapes", classifier(), 1)
    repository("shapes", classifier(), 2)
    repository("shades", classifier())
    repository("features", embedder())
    return start_server()


def test_the_models_of_the_server_are_offered(served: Running) -> None:
    where = {"FORWARDPASS_SERVER": served.address}
    assert complete("forwardpass predict ", **where) == ["features", "shades", "shapes"]
    assert complete("forwardpass generate sha", **where) == ["shades", "shapes"]
    assert complete("forwardpass models f", **where) == ["features"]
    assert complete("forwardpass health --json shap", **where) == ["shapes"]
    assert complete("forwardpass embed . --model f", **where) == ["features"]
    assert complete("forwardpass predict nothing", **where) == []
    # A flag wins over the variable.
    nowhere = {"FORWARDPASS_SERVER": "127.0.0.1:1"}
    typed = f"forwardpass predict --server {served.address} s"
    assert complete(typed, **nowhere) == ["shades", "shapes"]
    # Files come after the model, and are the shell's.
    assert complete("forwardpass predict shapes s", **where) == []


def test_no_server_is_no_word() -> None:
    assert complete("forwardpass predict ", FORWARDPASS_SERVER="127.0.0.1:1") == []
    assert complete("forwardpass predict --server nonsense:port s") == []
    assert complete("forwardpass predict --tls-ca /nowhere.pem s") == []


def test_a_server_that_does_not_answer_is_not_waited_for() -> None:
    # Connections are accepted by the kernel, and nobody reads them.
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        assert complete("forwardpass predict ", FORWARDPASS_SERVER=address) == []


def test_commands_and_options_are_offered() -> None:
    assert complete("forwardpass h") == ["health"]
    assert complete("forwardpass predict --top") == ["--top-k"]


@pytest.mark.parametrize(
    ("typed", "near"), [(["helth"], "'health'"), (["health", "--serevr", "x"], "--server")]
)
def test_a_mistake_is_told_with_what_is_near(typed: list[str], near: str) -> None:
    ended = subprocess.run(
        [PROGRAM, *typed], capture_output=True, text=True, timeout=60, check=False
    )
    assert ended.returncode == 2
    assert near in ended.stderr
