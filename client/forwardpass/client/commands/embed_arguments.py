"""What `forwardpass embed` was told, and which of its works that is."""

import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import typer

from forwardpass.client.commands.connection import Connection
from forwardpass.client.commands.embed_model import model_name, open_model
from forwardpass.client.jobs.plan import Wishes
from forwardpass.client.jobs.sources import Sources, read_file_list
from forwardpass.wire import Preparation, PreparationError

_PART = re.compile(r"([0-9]{1,6})/([0-9]{1,6})")
_COLOUR = re.compile(r"#?([0-9a-fA-F]{6})")
_TIME = re.compile(r"([0-9]+(?:\.[0-9]+)?)([smh]?)")
# Suffixes of files that somebody may expect, and that no folder has.
_FILES = frozenset(
    {".arrow", ".csv", ".feather", ".json", ".jsonl", ".npz", ".png", ".tsv", ".txt"}
)
_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600}


@dataclass(frozen=True, slots=True)
class Arguments:
    """The command line's, as the options' help says."""

    connection: Connection
    is_served: bool
    sources: list[str]
    model: str | None
    out: Path | None
    files_from: Path | None
    column: str | None
    follow: bool
    invert: bool
    normalize: bool
    resize: str | None
    crop: float | None
    filter: str | None
    background: str | None
    draft: bool | None
    retry_errors: bool
    part: str | None
    ray: bool
    wait: str
    check: Path | None
    merge: Path | None
    neighbours: int
    neighbours_grid: Path | None


def run(given: Arguments, *, as_json: bool) -> None:
    """Checks or merges folders, does a job, or writes a file."""
    if given.check is not None or given.merge is not None:
        _read_folder(given, as_json=as_json)
        return
    if given.model is None:
        raise typer.BadParameter("name the model", param_hint="--model")
    if not given.sources and given.files_from is None:
        raise typer.BadParameter("name what is to be embedded", param_hint="SOURCE")
    wishes = Wishes(
        given.normalize, given.invert, given.column, _preparation(given), _part(given.part)
    )
    sources = Sources(
        [os.fsencode(source) for source in given.sources],
        None if given.files_from is None else _listed(given.files_from),
        given.column,
        given.follow,
    )
    opened = open_model(
        given.connection,
        given.model,
        is_served=given.is_served,
        wait=_seconds(given.wait),
        threads=1 if given.ray else None,
    )
    if given.out is None or given.out.suffix in (".npy", ".parquet"):
        _refuse_for_files(given)
        from forwardpass.client.commands import embed

        embed.run(
            opened,
            sources,
            embed.Options(given.out, given.neighbours, given.neighbours_grid, wishes),
            as_json=as_json,
        )
        return
    if given.out.suffix.lower() in _FILES:
        raise typer.BadParameter(
            f"{given.out} ends neither in .parquet nor in .npy, and is no name for a folder",
            param_hint="--out",
        )
    if given.neighbours:
        raise typer.BadParameter(
            "a job's vectors are searched with `forwardpass neighbours DIR`",
            param_hint="--neighbours",
        )
    from forwardpass.client.commands import embed_job

    name = model_name(given.model, is_served=given.is_served)
    options = embed_job.JobOptions(given.out, wishes, given.retry_errors, given.ray)
    embed_job.start(name, opened, sources, options, as_json=as_json)


def _read_folder(given: Arguments, *, as_json: bool) -> None:
    from forwardpass.client.commands import embed_job

    if given.check is not None:
        if given.sources:
            raise typer.BadParameter("--check reads one folder, and takes no SOURCE")
        embed_job.check_folder(given.check, as_json=as_json)
        return
    assert given.merge is not None
    embed_job.merge_parts(given.merge, [Path(part) for part in given.sources], as_json=as_json)


def _refuse_for_files(given: Arguments) -> None:
    for is_given, option in (
        (given.retry_errors, "--retry-errors"),
        (given.part is not None, "--part"),
        (given.ray, "--engine"),
    ):
        if is_given:
            raise typer.BadParameter("it is for jobs: give a folder as --out", param_hint=option)


def _listed(path: Path) -> list[bytes]:
    if str(path) == "-":
        return read_file_list(sys.stdin.buffer.read())
    try:
        return read_file_list(path.read_bytes())
    except OSError as error:
        raise typer.BadParameter(
            f"{path} cannot be read: {error.strerror}", param_hint="--files-from"
        ) from None


def _preparation(given: Arguments) -> Mapping[str, object]:
    """Returns the fields of a `Preparation` that are asked for."""
    fields = {
        "resize": given.resize,
        "crop": given.crop,
        "filter": given.filter,
        "background": None if given.background is None else _colour(given.background),
        "draft": given.draft,
    }
    asked = {name: value for name, value in fields.items() if value is not None}
    try:
        # The card may have cropping.
        Preparation(**{"resize": "crop", **asked})  # type: ignore[arg-type]  # looked at there
    except PreparationError as error:
        raise typer.BadParameter(str(error)) from None
    return asked


def _colour(text: str) -> int:
    match = _COLOUR.fullmatch(text)
    if match is None:
        raise typer.BadParameter(
            f"{text!r}: expected six hexadecimal digits, such as ffffff for white",
            param_hint="--background",
        )
    return int(match[1], 16)


def _part(text: str | None) -> tuple[int, int]:
    if text is None:
        return 0, 1
    match = _PART.fullmatch(text)
    if match is None or not int(match[1]) < int(match[2]):
        raise typer.BadParameter(
            f"{text!r}: expected I/N with I from 0 to N-1, such as 0/8 to 7/8", param_hint="--part"
        )
    return int(match[1]), int(match[2])


def _seconds(text: str) -> float:
    match = _TIME.fullmatch(text)
    if match is None:
        raise typer.BadParameter(
            f"{text!r}: expected a time such as 90s, 10m or 2h", param_hint="--wait"
        )
    return float(match[1]) * _SECONDS[match[2]]
