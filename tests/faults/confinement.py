"""A server in a control group that has little memory, and what it takes of it."""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

SERVE = ("-c", "from forwardpass.server.cli import main; main()")
_MOUNT = Path("/sys/fs/cgroup")
# By version: where groups are made, the limit, what is used, what of it the kernel may take back.
_V1 = _MOUNT / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"
_V2 = _MOUNT, "memory.max", "memory.current", "inactive_file"
# Where each tells how many processes the kernel has killed.
_KILLS = "memory.oom_control", "memory.events"


@dataclass(frozen=True)
class Group:
    """A control group.

    Attributes:
        folder: Where its files are.
        used_file: The one that tells how much memory it takes.
        reclaimable: The line of memory.stat that tells how much of it is files.
    """

    folder: Path
    used_file: str
    reclaimable: str

    @property
    def used(self) -> int:
        """Bytes that its processes take, without files that the kernel may take back."""
        stat = (self.folder / "memory.stat").read_text().splitlines()
        fields = dict(line.split() for line in stat)
        return int((self.folder / self.used_file).read_text()) - int(fields[self.reclaimable])

    @property
    def kills(self) -> int:
        """How many of its processes the kernel has killed for want of memory."""
        text = "".join(
            (self.folder / name).read_text() for name in _KILLS if (self.folder / name).exists()
        )
        return int(dict(line.split() for line in text.splitlines())["oom_kill"])


@contextmanager
def group(limit: int) -> Iterator[Group | None]:
    """Makes a group with a limit of memory; None where that cannot be done here."""
    for mount, limit_file, used_file, reclaimable in (_V1, _V2):
        folder = mount / f"forwardpass-{os.getpid()}"
        try:
            folder.mkdir()
            try:
                (folder / limit_file).write_text(str(limit))
            except OSError:
                folder.rmdir()
                raise
        except OSError:
            continue
        # Swap would hide what does not fit.
        for swap in ("memory.memsw.limit_in_bytes", "memory.swap.max"):
            with suppress(OSError):
                (folder / swap).write_text(str(limit) if "memsw" in swap else "0")
        try:
            yield Group(folder, used_file, reclaimable)
        finally:
            folder.rmdir()
        return
    yield None


@dataclass(frozen=True)
class Confined:
    """A server under limits.

    Attributes:
        process: Its process.
        address: Where it answers.
        metrics: Where its metrics are.
        group: Its group; None where none could be made, and its own size is all there is to see.
    """

    process: "subprocess.Popen[bytes]"
    address: str
    metrics: str
    group: Group | None

    @property
    def descriptors(self) -> int:
        """How many it has open."""
        return len(list(Path(f"/proc/{self.process.pid}/fd").iterdir()))

    @property
    def threads(self) -> int:
        """How many it has."""
        return len(list(Path(f"/proc/{self.process.pid}/task").iterdir()))

    @property
    def used(self) -> int:
        """Bytes that it takes."""
        if self.group is not None:
            return self.group.used
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        fields = dict(line.split(":", 1) for line in status.splitlines())
        return int(fields["RssAnon"].split()[0]) << 10


@contextmanager
def confined(
    models: Path, limit: int, *flags: str, program: Sequence[str] = SERVE, **environment: str
) -> Iterator[Confined]:
    """Serves models in a group with a limit of memory, until it is left.

    Args:
        models: The repository.
        limit: Bytes.
        flags: What the server is told beside.
        program: The server, or a double of it.
        environment: What its environment has beside.
    """
    with ExitStack() as stack:
        made = stack.enter_context(group(limit))
        log = stack.enter_context(tempfile.NamedTemporaryFile("w+", suffix=".log"))
        command = [sys.executable, *program, str(models), "--log-format", "json"]
        command += ["--port", "0", "--metrics-port", "0", "--cache-dir", "off", *flags]
        if made is not None:
            join = f'echo $$ > "{made.folder}/cgroup.procs" && exec "$@"'
            command = ["sh", "-c", join, "sh", *command]
        with Path(log.name).open("wb") as stderr:
            process = subprocess.Popen(command, stderr=stderr, env={**os.environ, **environment})
        try:
            with Path(log.name).open(encoding="utf-8") as written:
                lines = _read_until(written, "ready", process)
            # With workers, each of them says where it listens, and the first process the rest.
            said = {key: value for line in lines for key, value in line.items()}
            yield Confined(process, said["address"], said["metrics"], made)
        finally:
            process.terminate()
            process.wait()


def _read_until(
    log: TextIO, event: str, process: "subprocess.Popen[bytes]"
) -> list[dict[str, Any]]:
    """Returns the lines of a log up to an event, which comes within a minute."""
    lines: list[dict[str, Any]] = []
    end = time.monotonic() + 60
    while time.monotonic() < end and process.poll() is None:
        # A line may be there by half.
        place = log.tell()
        text = log.readline()
        if not text.endswith("\n"):
            log.seek(place)
            with suppress(subprocess.TimeoutExpired):
                process.wait(0.05)
            continue
        lines.append(json.loads(text))
        if lines[-1]["event"] == event and "worker" not in lines[-1]:
            return lines
    raise AssertionError(f"the server did not become {event}: {lines}")
