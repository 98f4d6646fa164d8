"""The process of the sandbox: tries versions that it is told, under limits that it sets itself."""

import json
import os
import resource
import select
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from forwardpass.artefact import GraphError, ManifestError
from forwardpass.server.loading.division import Guards, find_guards, guarded
from forwardpass.server.loading.examples import find_example
from forwardpass.server.loading.files import FileError, RepositoryFiles
from forwardpass.server.loading.input_values import values_of
from forwardpass.server.loading.source import (
    Source,
    SourceError,
    complete,
    parse_graph,
    read_files,
    weights_size,
)
from forwardpass.server.onnx.session import Session
from forwardpass.server.onnx.signature import graph_signature
from forwardpass.server.process.memory import available_bytes

# A graph of float weights takes 3 times its size: the file, what is parsed of it, and a copy that
# is optimised. The fourth is for what it computes; deploy/README.md counts on as much.
_COPIES = 4
# What the smallest graph takes, the first time.
_ANY_GRAPH = 64 << 20
# What the kernel counts for RLIMIT_DATA: what is written to, and not what is merely reserved.
_STATUS = Path("/proc/self/status")


class Budget:
    """How much memory a version may take, beyond what the process had before it tried any.

    What an earlier version has left behind in the heap is there for the next one.

    Attributes:
        bytes: How much.
    """

    def __init__(self) -> None:
        self._base = _data_bytes()
        self.bytes = 0

    def lift(self) -> None:
        """Takes what `set` has set back."""
        _limit(resource.RLIMIT_DATA, resource.RLIM_INFINITY)

    def set(self, size: int, extra: int) -> None:
        """Limits memory to what files of a size explain, and as much as is given beyond.

        It is never more than the machine or the container has: there the whole of it would end.
        """
        self.bytes = min(_ANY_GRAPH + _COPIES * size + extra, available_bytes())
        _limit(resource.RLIMIT_DATA, self._base + self.bytes)


def answer_questions() -> None:
    """Tries what it is told, a line each, until there is no more."""
    _limit(resource.RLIMIT_CORE, 0)
    with suppress(OSError):
        # Where memory runs out all the same, this process goes, and not the server.
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")
    threading.Thread(target=_end_with_the_server, daemon=True).start()
    # What native code prints is no answer.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="ascii")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    budget = Budget()
    for line in sys.stdin:
        question = json.loads(line)
        used = sum(resource.getrusage(resource.RUSAGE_SELF)[:2])
        _limit(resource.RLIMIT_CPU, int(used) + 1 + question["seconds"])
        answers.write(json.dumps(_verdict(question, budget)) + "\n")
        answers.flush()


def _end_with_the_server() -> None:
    """Ends the process once the server has gone, in the midst of a graph that never ends too."""
    questions = select.poll()
    # Of a pipe that the other end has left the kernel tells without being asked.
    questions.register(sys.stdin.fileno(), 0)
    questions.poll()
    os._exit(1)


def _verdict(question: Mapping[str, Any], budget: Budget) -> dict[str, Any]:
    """Returns what is told of a graph, or why it was not tried, or the limit that it went over."""
    try:
        try:
            source = _parse(question, budget)
        except (FileError, GraphError, ManifestError, SourceError) as error:
            return {"reason": str(error)}
        except OSError as error:
            return {"reason": f"cannot read it: {error.strerror or error}"}
        verdict: dict[str, Any] = {"identity": source.identity}
        try:
            verdict["guards"] = [*_run(source, question["dims"]).items()]
        except Exception as error:  # noqa: BLE001  # the server meets it again and says it
            if _is_allocation(error):
                return {"exceeded": budget.bytes}
    except MemoryError:
        return {"exceeded": budget.bytes}
    return verdict


def _parse(question: Mapping[str, Any], budget: Budget) -> Source:
    files = RepositoryFiles(Path(question["root"]), [Path(p) for p in question["follow_links"]])
    # The server has read as much into its own memory, but not looked into it.
    budget.lift()
    unparsed = read_files(files, Path(question["folder"]), manifest_required=False)
    size = len(unparsed.model) + len(unparsed.golden or b"")
    # The server will parse it as well: without what is given for running it.
    budget.set(size, 0)
    before = _most_used()
    try:
        graph = parse_graph(unparsed)
    except GraphError as error:
        # Protobuf says the same of a file that is none and of one for which memory did not suffice.
        if _most_used() - before > budget.bytes / 2:
            raise MemoryError from error
        raise
    budget.set(size + weights_size(unparsed, graph), question["extra_bytes"])
    return complete(unparsed, graph)


def _run(source: Source, dims: Mapping[str, Sequence[int]]) -> Guards:
    guards = find_guards(source)
    session = Session(guarded(source.model, guards), source.weights, threads=1)
    # Of golden data a row is enough.
    signature = replace(
        graph_signature(session.inputs, session.outputs), batched=source.golden is not None
    )
    values = values_of(source)
    stated = {name: tuple(extents) for name, extents in dims.items()}
    example = find_example(session, signature, source.golden, values, dims=stated)
    session.run(list(signature.outputs), example(1))
    return guards


def _is_allocation(error: BaseException | None) -> bool:
    """Whether memory was refused; ONNX Runtime tells that in words only."""
    while error is not None:
        text = str(error).lower()
        words = ("bad alloc", "failed to allocate", "bad_alloc")
        if isinstance(error, MemoryError) or any(word in text for word in words):
            return True
        error = error.__cause__
    return False


def _most_used() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


def _data_bytes() -> int:
    status = _STATUS.read_text(encoding="ascii", errors="replace")
    fields = dict(line.split(":", 1) for line in status.splitlines())
    return int(fields["VmData"].split()[0]) << 10


def _limit(kind: int, most: int) -> None:
    """Sets the soft limit; a hard one may have been set for the server, and stays."""
    _, hard = resource.getrlimit(kind)
    if hard != resource.RLIM_INFINITY:
        most = hard if most == resource.RLIM_INFINITY else min(most, hard)
    resource.setrlimit(kind, (most, hard))


if __name__ == "__main__":
    answer_questions()
