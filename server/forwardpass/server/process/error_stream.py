"""What comes to standard error beside the log: from Python itself, and from native code."""

import io
import os
import sys
from typing import Any

from forwardpass.server.process.log_writer import LogWriter


def silence_grpc() -> None:
    """Has gRPC core write nothing to standard error, unless the operator says otherwise.

    It writes there from its own threads and waits for whoever reads: a caller that fails TLS
    handshakes would bring it to a stop. Whoever sets GRPC_VERBOSITY, to learn why handshakes fail,
    has it wait. A pipe in place of descriptor 2 would spare both, but what native code says when it
    ends the process would be lost in it. It must be called before gRPC is imported.
    """
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")


def redirect_python(writer: LogWriter) -> None:
    """Has the writer write what Python prints to standard error.

    That is tracebacks of threads, warnings, and what libraries log by `logging`.
    """
    lines = _Lines(writer)
    sys.stderr = io.TextIOWrapper(lines, "utf-8", "backslashreplace", line_buffering=True)


class _Lines(io.RawIOBase):
    """A file whose lines a writer writes."""

    def __init__(self, writer: LogWriter) -> None:
        super().__init__()
        self._writer = writer

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        for line in bytes(data).splitlines():
            self._writer.put(line)
        return len(data)
