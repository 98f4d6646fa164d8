"""The models on disk: MODELS/<name>/<version>/, as Triton lays them out."""

import re
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import structlog

from forwardpass.artefact import MANIFEST_FILE
from forwardpass.server.errors import CallError, InvalidInput, nearest, quote
from forwardpass.server.runtime.version import Loaded, State, Version
from forwardpass.server.scheduling.admission import RETRY_AFTER
from forwardpass.v1 import model_service_pb2
from forwardpass.wire import Reason

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_NUMBER = re.compile(r"[1-9][0-9]{0,17}")
_log = structlog.get_logger()


class RepositoryError(Exception):
    """A repository that cannot be used at all; the message says why."""


class Repository:
    """Every version found, and which of them answer.

    Of each model the newest version that passes its checks is loaded: where the newest does not,
    the one before it is tried.

    Args:
        folder: Where the models lie.
        threads: Threads for one run of a model.
        manifest_required: Whether to refuse every version without a manifest.

    Raises:
        RepositoryError: There is no such folder.
    """

    def __init__(self, folder: Path, *, threads: int, manifest_required: bool) -> None:
        if not folder.is_dir():
            raise RepositoryError(
                f"{folder} is no folder; give the folder that holds <name>/<version>/model.onnx"
            )
        self._folder = folder
        self._threads = threads
        self._manifest_required = manifest_required
        self._observers: list[Callable[[], None]] = []
        self._closing = threading.Event()
        self._models = self._scan()

    @property
    def models(self) -> Mapping[str, list[Version]]:
        """The versions of each model, newest first, by the model's name."""
        return self._models

    def on_change(self, observer: Callable[[], None]) -> None:
        """Has the observer called after each change of a version's state."""
        self._observers.append(observer)

    def load(self) -> None:
        """Loads the newest good version of every model, several at a time, and returns then."""
        with ThreadPoolExecutor(self._threads, "load") as pool:
            list(pool.map(self._load_newest, self._models.values()))

    def close(self) -> None:
        """Lets go of every model."""
        self._closing.set()
        for version in self._versions():
            version.close()

    def find(self, reference: model_service_pb2.ModelReference) -> Loaded:
        """Returns the model that answers a reference.

        Raises:
            CallError: No such model or version, or one that does not answer, and why.
        """
        version = self.describe(reference)
        if version.ready and version.loaded is not None:
            return version.loaded
        who = f"model {quote(version.name)}, version {version.number},"
        if version.state == State.MODEL_STATE_FAILED:
            raise CallError(
                Reason.MODEL_FAILED, f"{who} failed to load: {version.state_reason}", field="model"
            )
        if version.state in (State.MODEL_STATE_DRAINING, State.MODEL_STATE_UNLOADED):
            raise CallError(
                Reason.MODEL_NOT_FOUND, f"{who} is not served any more", field="model.version"
            )
        if any(other.ready for other in self._models[version.name]):
            raise CallError(
                Reason.MODEL_NOT_FOUND,
                f"{who} is not served; a newer one is",
                field="model.version",
            )
        raise CallError(
            Reason.MODEL_LOADING, f"{who} is still loading", field="model", retry_after=RETRY_AFTER
        )

    def describe(self, reference: model_service_pb2.ModelReference) -> Version:
        """Returns the version that a reference means, whatever its state.

        Without a version that is the newest that is ready, else the newest.

        Raises:
            CallError: No such model or version.
        """
        name = reference.name
        if not name:
            raise InvalidInput("no model is named", field="model.name")
        versions = self._models.get(name)
        if versions is None:
            raise CallError(
                Reason.MODEL_NOT_FOUND,
                f"no model {quote(name)}{nearest(name, self._models)}",
                field="model.name",
            )
        if reference.HasField("label"):
            raise CallError(
                Reason.MODEL_NOT_FOUND,
                f"model {quote(name)} has no version labelled {quote(reference.label)}",
                field="model.label",
            )
        if not reference.HasField("version"):
            return next((v for v in versions if v.ready), versions[0])
        if reference.version < 1:
            raise InvalidInput(
                f"version {reference.version}, but versions start at 1", field="model.version"
            )
        found = next((v for v in versions if v.number == reference.version), None)
        if found is None:
            raise CallError(
                Reason.MODEL_NOT_FOUND,
                f"model {quote(name)} has no version {reference.version}; "
                f"it has {', '.join(str(v.number) for v in versions[:8])}",
                field="model.version",
            )
        return found

    def _versions(self) -> Iterator[Version]:
        for versions in self._models.values():
            yield from versions

    def _scan(self) -> dict[str, list[Version]]:
        models: dict[str, list[Version]] = {}
        for path in sorted(self._folder.iterdir()):
            # Links are not followed: they could lead out of the repository.
            if path.is_symlink() or not path.is_dir() or not _NAME.fullmatch(path.name):
                if not path.name.startswith("."):
                    _log.warning(
                        "ignored", path=path.name, reason="no plain folder with a model's name"
                    )
                continue
            numbers = [
                int(folder.name)
                for folder in path.iterdir()
                if _NUMBER.fullmatch(folder.name) and folder.is_dir() and not folder.is_symlink()
            ]
            if not numbers:
                _log.warning(
                    "ignored", path=path.name, reason="it holds no numbered version folder"
                )
                continue
            models[path.name] = [
                Version(path.name, number, path / str(number), self._notify)
                for number in sorted(numbers, reverse=True)
            ]
        return models

    def _load_newest(self, versions: list[Version]) -> None:
        manifested = any((version.folder / MANIFEST_FILE).is_file() for version in versions)
        for version in versions:
            if self._closing.is_set():
                return
            version.load(
                threads=self._threads, manifest_required=manifested or self._manifest_required
            )
            if version.ready:
                loaded = version.loaded
                _log.info(
                    "model_ready",
                    model=version.name,
                    version=version.number,
                    seconds=round(loaded.seconds, 3) if loaded else None,
                )
                return
            _log.error(
                "model_failed",
                model=version.name,
                version=version.number,
                reason=version.state_reason,
            )

    def _notify(self) -> None:
        for observer in self._observers:
            observer()
