"""What loading found out about a version, kept from one start of the server to the next.

An entry says that the sandbox survived a graph, which of its divisions must be guarded, whether its
rows are independent, and how long runs of it take: to find that out takes longer than all the rest
of a load. It is a small file
of JSON, and holds nothing that is executed. Its name is a digest of everything that these depend
on, so whatever changes leads to another entry.
"""

import hashlib
import json
import os
import platform
import re
import stat
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from math import inf
from pathlib import Path
from typing import Any, Literal

import numpy as np
import structlog

from forwardpass.server.loading.batch_curve import CurvePoint
from forwardpass.server.loading.config import ModelConfig
from forwardpass.server.loading.division import Guards
from forwardpass.server.loading.independence import Independence
from forwardpass.server.loading.source import Source, Unparsed
from forwardpass.server.onnx.session import ONNXRUNTIME_VERSION
from forwardpass.server.process.cores import available_cores
from forwardpass.server.process.cpu import processor
from forwardpass.server.process.release import release

# Changes with what an entry holds, and with how the sandbox tries or the curve is measured.
_FORMAT = 4
_MAX_BYTES = 1 << 16
# The least recently used entries beyond this number are evicted: those of old versions.
_MAX_ENTRIES = 256
# A repository of many versions keeps so many entries for each: other servers share the folder.
_ENTRIES_OF_VERSION = 4
# Entries, and what was left by a server that was killed as it wrote one.
_OURS = re.compile(r"[0-9a-f]{32}-[0-9a-f]{64}\.json|\.[0-9a-f]{32}-[0-9a-f]{64}-\w+")
_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Findings:
    """What loading a version that the sandbox survived found out.

    Attributes:
        curve: How long runs of it take.
        guards: Which divisions of it must be guarded.
        independence: What is known of its rows.
    """

    curve: Sequence[CurvePoint]
    guards: Guards
    independence: Independence


class CacheError(Exception):
    """A folder that no result is taken from or put into; the message says why."""


class VerificationCache:
    """A folder of entries, which several threads and several servers may share.

    Whoever writes into it decides which graphs skip the sandbox, so it must belong to the user that
    the server runs as, and nobody else may be able to write into it.

    Attributes:
        empty: Whether there was no entry at the start.

    Args:
        folder: Where the entries lie; made where it is missing.
        setup: How the server loads every model, which each result depends on.
        anew: Whether to find nothing, so that everything is found out and kept again.

    Raises:
        CacheError: The folder cannot be made or read, or others could write into it.
    """

    def __init__(self, folder: Path, setup: Mapping[str, Any], *, anew: bool = False) -> None:
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            _check_ours(folder.stat())
            ours = [path.name for path in folder.iterdir() if _OURS.fullmatch(path.name)]
            self.empty = not ours
            self._setup = {**_surroundings(), **setup}
        except OSError as error:
            raise CacheError(error.strerror or str(error)) from None
        self._folder = folder
        self._anew = anew
        self._warned = False
        self._tried = {name.partition("-")[0] for name in ours}
        self._room = _MAX_ENTRIES

    def expect(self, versions: int) -> None:
        """Makes room for what loading so many versions finds out."""
        self._room = max(_MAX_ENTRIES, _ENTRIES_OF_VERSION * versions)

    def has_tried(self, unparsed: Unparsed) -> bool:
        """Whether the sandbox survived these files, perhaps with other files of weights.

        So they may be parsed, which is what it takes to find out what `find` depends on.
        """
        tried = self._name(unparsed.model_digest, unparsed.golden_digest)
        return not self._anew and tried in self._tried

    def find(self, source: Source, config: ModelConfig) -> Findings | None:
        """Returns what is known of a version that the sandbox survived; None where nothing is.

        Args:
            source: What the version is made of.
            config: What the model's config.pbtxt decides.
        """
        if self._anew:
            return None
        key = self._key(source, config)
        path = self._path(source, key)
        try:
            findings = _parse(_read(path), key)
        except FileNotFoundError:
            return None
        except Exception as error:  # noqa: BLE001  # whatever is wrong with it, there is another way
            reason = f"{type(error).__name__}: {error}"
            _log.warning("cache_entry_ignored", path=str(path), reason=reason)
            return None
        with suppress(OSError):
            os.utime(path)  # It has been used, and stays.
        return findings

    def keep(self, source: Source, config: ModelConfig, findings: Findings) -> None:
        """Writes down what `find` is to return; the first time that this fails, says so.

        Args:
            source: As for `find`.
            config: As for `find`.
            findings: What was found out.
        """
        key = self._key(source, config)
        entry = {
            "facts": json.loads(key),
            "curve": [[point.rows, point.seconds] for point in findings.curve],
            "guards": [*findings.guards.items()],
            "independence": asdict(findings.independence),
        }
        try:
            path = self._path(source, key)
            _write(path, json.dumps(entry))
            self._tried.add(path.name.partition("-")[0])
            self._drop_oldest()
        except OSError as error:
            if not self._warned:
                _log.warning("cache_not_written", path=str(self._folder), reason=error.strerror)
            self._warned = True

    def _key(self, source: Source, config: ModelConfig) -> str:
        """Returns everything that the results depend on, as JSON."""
        facts = {
            "model": source.digest,
            "golden": source.golden_digest,
            "max_batch_size": config.max_batch_size,
            "dynamic_batching": config.dynamic_batching,
            "inputs": config.inputs,
        }
        return json.dumps({**self._setup, **facts}, sort_keys=True)

    def _path(self, source: Source, key: str) -> Path:
        name = self._name(source.model_digest, source.golden_digest)
        return self._folder / f"{name}-{hashlib.sha256(key.encode()).hexdigest()}.json"

    def _name(self, model_digest: bytes, golden_digest: str) -> str:
        """Returns how the names of all entries begin that are about these two files."""
        files = json.dumps([self._setup, model_digest.hex(), golden_digest], sort_keys=True)
        return hashlib.sha256(files.encode()).hexdigest()[:32]

    def _drop_oldest(self) -> None:
        ages = []
        for path in self._folder.iterdir():
            # Another server may drop the same ones. What is not ours stays.
            with suppress(FileNotFoundError):
                if _OURS.fullmatch(path.name):
                    ages.append((path.lstat().st_mtime_ns, path))
        for _, path in sorted(ages, reverse=True)[self._room :]:
            path.unlink(missing_ok=True)


def open_cache(
    where: Path | Literal["auto", "off"], setup: Mapping[str, Any], *, anew: bool = False
) -> VerificationCache | None:
    """Returns the cache; None where there is to be none, or with a warning where it is unusable.

    Args:
        where: Its folder; "auto" is one of the user's own, "off" none.
        setup: As for VerificationCache.
        anew: As for VerificationCache.
    """
    if where == "off":
        return None
    try:
        folder = _folder_of_user() if where == "auto" else where
        return VerificationCache(folder, setup, anew=anew)
    except CacheError as error:
        _log.warning("no_cache", cache_dir=str(where), reason=str(error))
        return None


def _folder_of_user() -> Path:
    """As the XDG Base Directory Specification says, which ignores relative paths."""
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    try:
        return (base if base.is_absolute() else Path.home() / ".cache") / "forwardpass" / "verified"
    except RuntimeError as error:
        raise CacheError(str(error)) from None


def _surroundings() -> dict[str, Any]:
    """What every result on this machine depends on."""
    system = os.uname()
    return {
        "format": _FORMAT,
        "server": release(),
        "onnxruntime": ONNXRUNTIME_VERSION,
        "numpy": np.__version__,
        "python": platform.python_version(),
        "system": [system.sysname, system.release, system.machine],
        "processor": processor(),
        "cores": available_cores(),
    }


def _check_ours(status: os.stat_result) -> None:
    if status.st_uid != os.geteuid():
        raise CacheError(f"it belongs to user {status.st_uid}, not to this one, {os.geteuid()}")
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise CacheError(f"others may write to it: its mode is {stat.S_IMODE(status.st_mode):o}")


def _read(path: Path) -> bytes:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    with open(descriptor, "rb") as file:  # noqa: PTH123  # a descriptor has no path
        status = os.fstat(descriptor)
        _check_ours(status)
        if not stat.S_ISREG(status.st_mode) or status.st_size > _MAX_BYTES:
            raise CacheError(f"it is no plain file of at most {_MAX_BYTES} bytes")
        return file.read(_MAX_BYTES)


def _parse(data: bytes, key: str) -> Findings:
    entry = json.loads(data)
    if json.dumps(entry["facts"], sort_keys=True) != key:
        raise CacheError("it is about something else than its name says")
    curve = [CurvePoint(int(rows), float(seconds)) for rows, seconds in entry["curve"]]
    if any(p.rows != 1 << i or not 0 < p.seconds < inf for i, p in enumerate(curve)):
        raise CacheError("its curve is not one of 1, 2, 4 ... rows and of seconds")
    guards = {int(number): int(kind) for number, kind in entry["guards"]}
    return Findings(curve, guards, Independence(**entry["independence"]))


def _write(path: Path, text: str) -> None:
    """Writes a file that is whole for whoever sees it under its name."""
    descriptor, unfinished = tempfile.mkstemp(prefix=f".{path.stem}-", dir=path.parent)
    try:
        with open(descriptor, "w", encoding="utf-8") as file:  # noqa: PTH123  # as above
            file.write(text)
        Path(unfinished).replace(path)
    except BaseException:
        Path(unfinished).unlink(missing_ok=True)
        raise
