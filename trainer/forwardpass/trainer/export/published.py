"""The versions that a repository has."""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from forwardpass.artefact import (
    CARD_KEY,
    MODEL_FILE,
    CardError,
    ManifestError,
    card_from_json,
    read_manifest,
    verify_manifest,
)
from forwardpass.trainer.errors import QuantizeError, ReportError, UnknownNameError
from forwardpass.trainer.export.report import REPORT_FILE
from forwardpass.v1 import model_card_pb2


@dataclass(frozen=True, slots=True)
class Published:
    """A version that servers can see.

    Attributes:
        folder: MODELS/<name>/<n>.
        card: As it stands in the ONNX file.
    """

    folder: Path
    card: model_card_pb2.ModelCard


def newest_version(models: Path, name: str) -> Path | None:
    """Returns the folder of a model's newest whole version; None where it has none."""
    numbers = [int(path.name) for path in (models / name).glob("*") if path.name.isdecimal()]
    for number in sorted(numbers, reverse=True):
        folder = models / name / str(number)
        try:
            verify_manifest(folder)
        except (ManifestError, FileNotFoundError):
            continue
        return folder
    return None


def find_published(models: Path, name: str, version: int | None) -> Published:
    """Returns a version of a model that was published with a card.

    Args:
        models: The repository.
        name: The model's.
        version: Which; None for the newest whole one.

    Raises:
        UnknownNameError: There is no such model, or version of it.
        QuantizeError: The version is not whole, or has no card.
    """
    found = {path.parent.name for path in models.glob("*/*") if path.name.isdecimal()}
    if not found:
        raise QuantizeError(
            f"there is no model in {models}; train one, such as by: forwardpass-train run "
            f"mnist-cnn --models {models}"
        )
    if name not in found:
        raise UnknownNameError("model", name, found)
    if version is None:
        folder = newest_version(models, name)
        if folder is None:
            raise QuantizeError(f"no version in {models / name} is whole; train one anew")
    else:
        folder = models / name / str(version)
        if not folder.exists():
            versions = [path.name for path in folder.parent.iterdir() if path.name.isdecimal()]
            raise UnknownNameError(f"version of {name}", str(version), versions)
    return Published(folder, _read_card(folder))


def find_report(models: Path, name: str | None) -> Path:
    """Returns the page of the version that was published last.

    Args:
        models: The repository.
        name: The model's; None for any.

    Raises:
        UnknownNameError: There is no such model.
        ReportError: There is no model at all, or the version has no page.
    """
    created = dict(_created(models))
    names = {folder.parent.name for folder in created}
    if not names:
        raise ReportError(
            f"there is no model in {models}; train one, such as by: forwardpass-train run "
            f"digits-mlp --models {models}"
        )
    if name is not None and name not in names:
        raise UnknownNameError("model", name, names)
    folders = [folder for folder in created if name in (None, folder.parent.name)]
    newest = max(folders, key=lambda folder: (created[folder], int(folder.name)))
    if not (newest / REPORT_FILE).is_file():
        raise ReportError(
            f"{newest} has no {REPORT_FILE}: an earlier forwardpass published it. Publish the "
            "model anew to get one"
        )
    return newest / REPORT_FILE


def _read_card(folder: Path) -> model_card_pb2.ModelCard:
    # Who only looks for a version does without.
    import onnx

    try:
        verify_manifest(folder)
        properties = {p.key: p.value for p in onnx.load(folder / MODEL_FILE).metadata_props}
        return card_from_json(properties[CARD_KEY])
    except (ManifestError, FileNotFoundError, CardError) as error:
        raise QuantizeError(f"{folder} cannot be used: {error}") from None
    except KeyError:
        raise QuantizeError(
            f"{folder} has no card, so nothing tells what data to calibrate by or which accuracy "
            "to keep; models that recipes published have one"
        ) from None


def _created(models: Path) -> Iterator[tuple[Path, str]]:
    """Yields the folder of each version and when it was written; times of UTC sort as text."""
    for folder in models.glob("*/*"):
        if folder.name.isdecimal():
            with suppress(ManifestError, FileNotFoundError):
                yield folder, read_manifest(folder).created
