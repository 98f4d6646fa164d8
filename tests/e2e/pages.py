"""The console and Python blocks of the pages, and a shell to run them as a reader would."""

import os
import re
import signal
import socket
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = (
    "README.md",
    "CONTRIBUTING.md",
    "client/README.md",
    "server/README.md",
    "trainer/README.md",
    "deploy/README.md",
    "deploy/proxies/README.md",
    "docs/course.md",
    "docs/other-languages.md",
    "examples/README.md",
    "examples/clients/node/README.md",
    "examples/clients/python/README.md",
)
# Those that the blocks name.
PORTS = (8001, 8002, 9001)

_FENCE = re.compile(
    r"(?:^<!-- (?P<mark>heavy|not run): (?P<reason>.+?) -->\n)?"
    r"^ *```(?P<language>\w*)\n(?P<text>.*?)^ *```$",
    re.MULTILINE | re.DOTALL,
)
_IN_FOREGROUND = re.compile(
    r"(?:\w+=\S+ )*forwardpass-serve (?!check\b)(?!.*--(?:help|version)\b)[^&]*"
)
_DONE = "a command has ended:"


@dataclass(frozen=True)
class Block:
    """Commands or a program that a page tells its reader to run.

    Attributes:
        page: Where it stands, from the root.
        line: In which line it begins.
        language: "console" or "python".
        text: What stands between the fences.
        mark: "heavy", "not run", or "".
        reason: Why it has a mark.
    """

    page: str
    line: int
    language: str
    text: str
    mark: str
    reason: str

    @property
    def commands(self) -> list[str]:
        """What to give to a shell, one after another; the other lines are what it prints."""
        if self.language == "python":
            return [f"python - <<'BLOCK'\n{self.text}BLOCK"]
        joined = self.text.replace("\\\n", " ")
        lines = [line.strip() for line in joined.splitlines()]
        return [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]


def blocks(page: str) -> list[Block]:
    """Returns a page's console and Python blocks, in their order."""
    text = (ROOT / page).read_text(encoding="utf-8")
    return [
        Block(
            page,
            text.count("\n", 0, match.start("language")) + 1,
            match["language"],
            match["text"],
            match["mark"] or "",
            match["reason"] or "",
        )
        for match in _FENCE.finditer(text)
        if match["language"] in {"console", "python"}
    ]


def languages(page: str) -> set[str]:
    """Returns what the blocks of a page say that they are in."""
    return {match["language"] for match in _FENCE.finditer((ROOT / page).read_text("utf-8"))}


def outside_of_blocks(page: str) -> str:
    """Returns a page's text without what stands between fences."""
    return _FENCE.sub("", (ROOT / page).read_text(encoding="utf-8"))


class Shell:
    """A shell in which a reader's commands share a folder, variables and background jobs."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def run(self, block: Block) -> None:
        """Runs a block's commands; a server that one leaves running has become ready.

        Raises:
            AssertionError: A command failed; its output is told.
        """
        for command in block.commands:
            in_foreground = _IN_FOREGROUND.fullmatch(command.split(" #")[0])
            code, output = self._ask(f"{command} &" if in_foreground else command)
            if in_foreground:
                # As Ctrl-C does.
                code, more = self._ask('kill -INT "$!"; wait "$!"')
                output += more
            assert code == 0, f"{block.page}:{block.line}: {command}\n{output}"

    def _ask(self, command: str) -> tuple[int, str]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f'{command}\nprintf "\\n{_DONE}%s\\n" "$?"\n')
        self._process.stdin.flush()
        waits_for_server = command.split(" #", maxsplit=1)[0].rstrip().endswith("&")
        code, lines = None, []
        for line in self._process.stdout:
            lines.append(line)
            if line.startswith(_DONE):
                code = int(line.removeprefix(_DONE))
            is_there = '"event": "ready"' in line
            ended = "not_ready" in line or "error:" in line
            if waits_for_server:
                assert not ended, "".join(lines)
                waits_for_server = not is_there
            if code is not None and not waits_for_server:
                return code, "".join(lines)
        raise AssertionError("".join(lines))


@contextmanager
def open_shell(folder: Path, variables: Mapping[str, str], *, alone: bool) -> Iterator[Shell]:
    """A shell in a folder; what it has started ends with it.

    Args:
        folder: Where commands begin.
        variables: Its environment.
        alone: Whether it gets a network of its own, so that the ports that the pages name are free;
            where none can be made, they must be free on this machine.
    """
    own_network = ["unshare", "--map-root-user", "--net"]
    has_own = (
        alone
        and not subprocess.run([*own_network, "true"], check=False, capture_output=True).returncode
    )
    if alone and not has_own:
        _check_free(PORTS)
    process = subprocess.Popen(
        [*(own_network if has_own else ()), "bash", "--norc"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=folder,
        env=dict(variables),
        start_new_session=True,
    )
    try:
        shell = Shell(process)
        if has_own:
            shell.run(Block(__file__, 1, "python", _UP, "", ""))
        yield shell
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


# A new network has a loopback interface that is down.
_UP = """
import fcntl, socket, struct
with socket.socket() as any_socket:
    # SIOCSIFFLAGS: IFF_UP
    fcntl.ioctl(any_socket, 0x8914, struct.pack("16sh22x", b"lo", 1))
"""


def _check_free(ports: tuple[int, ...]) -> None:
    for port in ports:
        with socket.socket() as one:
            if not one.connect_ex(("127.0.0.1", port)):
                pytest.skip(f"no network of its own can be made, and port {port} is in use")
