"""How a job goes on: a bar in a terminal, a line a minute in a log, events for programs."""

import json
import sys
import threading
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

import typer

from forwardpass.client.commands.display import progress
from forwardpass.client.jobs.check import Checked
from forwardpass.client.jobs.folder import JobFolder
from forwardpass.client.jobs.listing import Changes, as_text

# Seconds between two lines of a log.
_EVERY = 60.0


class JobProgress:
    """Tells of one job; a context manager.

    Args:
        as_json: Whether to print an event a line to standard output, for programs.
    """

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json
        self._lock = threading.Lock()
        self._bar = progress()
        self._task = self._bar.add_task("embedding", total=None, visible=False)
        self._started = self._told = time.monotonic()
        self._begun = self._done = self._total = 0

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._bar.stop()

    def listed(self, folder: JobFolder) -> None:
        """A job has begun."""
        listing = folder.listing
        self._tell(
            "listed",
            "",
            rows=folder.spec.rows,
            left_out=len(listing.left_out),
            skipped=dict(listing.skipped),
        )

    def resumed(self, folder: JobFolder, changes: Changes) -> None:
        """A job goes on."""
        done = folder.vectors + folder.errors
        total = folder.spec.part_rows
        text = f"goes on: {done:,} of {total:,} rows are done"
        for paths, what in (
            (changes.new, "new, and not part of this job: begin another for them"),
            (changes.changed, "changed: what is done of them stays, the rest is read as it is now"),
            (changes.vanished, "gone: what is done of them stays, the rest becomes errors"),
        ):
            if paths:
                text += f"\nsince it began {_some(paths)} {what}"
        self._tell(
            "resumed",
            text,
            rows=total,
            done=done,
            new=len(changes.new),
            changed=len(changes.changed),
            vanished=len(changes.vanished),
        )

    def begin(self, folder: JobFolder, shards: Sequence[int]) -> None:
        """Shards are to be done."""
        self._total = folder.spec.part_rows
        self._begun = self._done = self._total - sum(
            len(folder.spec.rows_of(number)) for number in shards
        )
        self._started = self._told = time.monotonic()
        self._bar.reset(self._task, total=self._total, completed=self._done, visible=True)

    def advance(self, rows: int) -> None:
        """Rows have been embedded; any thread may say so."""
        with self._lock:
            self._done += rows
            self._bar.advance(self._task, rows)
            now = time.monotonic()
            if now - self._told < _EVERY:
                return
            self._told = now
            rate = (self._done - self._begun) / (now - self._started)
            left = (self._total - self._done) / rate
            text = (
                f"embedding: {self._done:,} of {self._total:,} rows, {rate:,.0f}/s, "
                f"{left / 60:,.0f} min left"
            )
            is_shown = not self._bar.disable and not self._as_json
            self._tell(
                "progress",
                "" if is_shown else text,
                done=self._done,
                rows=self._total,
                rate=rate,
                seconds_left=left,
            )

    def interrupted(self, folder: JobFolder) -> None:
        """A job ends before it is done."""
        done, total = folder.vectors + folder.errors, folder.spec.part_rows
        self._tell(
            "interrupted",
            f"ended by a signal: {done:,} of {total:,} rows are done; the same command goes on",
            done=done,
            rows=total,
        )

    def finished(self, folder: JobFolder) -> None:
        """A job is done."""
        vectors, errors = folder.vectors, folder.errors
        seconds = time.monotonic() - self._started
        space = folder.spec.space
        text = f"{vectors:,} vectors, {errors:,} errors in {folder.path}"
        if self._done > self._begun:
            rate = (self._done - self._begun) / seconds
            text += f", in {seconds:.1f} s ({rate:,.0f}/s)"
        text += f", by {space.model} version {space.version}"
        if errors:
            text += f"; what is wrong stands in {folder.path / 'errors'}"
        self._tell(
            "done",
            text,
            model=space.model,
            version=space.version,
            space_id=space.space_id,
            dimension=space.dimension,
            rows=folder.spec.part_rows,
            vectors=vectors,
            errors=errors,
            left_out=len(folder.listing.left_out),
            skipped=dict(folder.listing.skipped),
            seconds=seconds,
            folder=str(folder.path),
        )

    def checked(self, folder: JobFolder, found: Checked) -> None:
        """A job's files have been read."""
        state = "complete" if not found.problems else "not complete"
        self._tell(
            "checked",
            f"{folder.path} is {state}: {found.rows:,} rows, {found.vectors:,} vectors, "
            f"{found.errors:,} errors",
            complete=not found.problems,
            rows=found.rows,
            vectors=found.vectors,
            errors=found.errors,
            left_out=len(folder.listing.left_out),
            problems=list(found.problems),
        )

    def _tell(self, event: str, text: str, **facts: Any) -> None:
        if self._as_json:
            sys.stdout.write(json.dumps({"event": event, **facts}) + "\n")
            sys.stdout.flush()
        elif text:
            typer.echo(text, err=event not in ("done", "checked"))


def _some(paths: Sequence[bytes]) -> str:
    more = f" and {len(paths) - 1} more" if paths[1:] else ""
    return f"{as_text(paths[0])}{more} {'are' if paths[1:] else 'is'}"
