"""Putting a version where servers look, whole or not at all.

    MODELS/<name>/.tmp-<uuid>/    files, each synced; manifest.json last; then the folder
    MODELS/<name>/<n>/            the same folder, renamed; then its parent is synced

Whatever happens on the way, a reader sees the versions that were there or those and the new one.
Publishers of one model take turns by a lock on MODELS/<name>/.publish.lock, which the system drops
when its holder dies: so a .tmp- folder that is found by whoever holds the lock has no owner, and is
swept away. The lock's file holds the greatest number that was ever given: a number stands for one
artefact, even after its folder was deleted.
"""

import errno
import fcntl
import os
import shutil
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import TextIO

from forwardpass.artefact import (
    GOLDEN_FILE,
    MODEL_FILE,
    Golden,
    save_golden,
    write_manifest,
)
from forwardpass.trainer.errors import PublishError
from forwardpass.trainer.export.report import REPORT_FILE

# Of a version's number.
_MAX_DIGITS = 18
_TAKEN = (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR)


def publish(
    models: Path,
    name: str,
    model: bytes,
    golden: Golden,
    plots: Mapping[str, bytes],
    *,
    report: str,
) -> Path:
    """Writes the next version of a model, and returns its folder. Versions never change.

    Args:
        models: The repository.
        name: The model's.
        model: The ONNX file.
        golden: Inputs with torch's outputs.
        plots: PNG files by name.
        report: The page, see `make_report`.

    Raises:
        PublishError: A file could not be written, for one because the disk is full. Nothing of
            the version is left.
    """
    home = models / name
    draft = home / f".tmp-{uuid.uuid4().hex}"
    try:
        home.mkdir(parents=True, exist_ok=True)
        record = home / ".publish.lock"
        record.touch()
        with record.open("r+", encoding="ascii") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            for abandoned in home.glob(".tmp-*"):
                shutil.rmtree(abandoned)
            try:
                _write(draft, model, golden, plots, report)
                return _take_number(home, draft, lock)
            except BaseException:
                shutil.rmtree(draft, ignore_errors=True)
                raise
    except OSError as error:
        raise PublishError(
            f"{name} could not be published in {models}: {error.strerror or error}. Nothing of it "
            "was left there. Once the cause is mended, run the same command: it takes up where "
            "training ended."
        ) from error


def _write(
    draft: Path, model: bytes, golden: Golden, plots: Mapping[str, bytes], report: str
) -> None:
    (draft / "plots").mkdir(parents=True)
    (draft / MODEL_FILE).write_bytes(model)
    save_golden(draft / GOLDEN_FILE, golden)
    for name, png in plots.items():
        (draft / "plots" / name).write_bytes(png)
    (draft / REPORT_FILE).write_text(report, encoding="utf-8")
    for path in draft.rglob("*"):
        _sync(path)
    write_manifest(draft)
    _sync(draft)


def _take_number(home: Path, draft: Path, record: TextIO) -> Path:
    """Gives the draft the next number.

    Args:
        home: MODELS/<name>.
        draft: What is to have it.
        record: The file that holds the greatest that was given.
    """
    numbers = [int(path.name) for path in home.iterdir() if path.name.isdecimal()]
    number = max(_read_number(record), *numbers, 0) + 1
    while True:
        target = home / str(number)
        # First: a number that was given to nothing is only left out.
        _write_number(record, number)
        try:
            # Fails where the folder exists and has entries, so that no version is ever replaced.
            os.rename(draft, target)  # noqa: PTH104 - paired with os.fsync
        except OSError as error:
            if error.errno not in _TAKEN:
                raise
            number += 1
        else:
            _sync(home)
            return target


def _read_number(record: TextIO) -> int:
    record.seek(0)
    text = record.read(_MAX_DIGITS).strip()
    return int(text) if text.isdecimal() else 0


def _write_number(record: TextIO, number: int) -> None:
    # Numbers only grow, so one takes the place of the one before.
    record.seek(0)
    record.write(f"{number}\n")
    record.flush()
    os.fsync(record.fileno())


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
