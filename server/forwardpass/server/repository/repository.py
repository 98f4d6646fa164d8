"""The models on disk: MODELS/<name>/<version>/, as Triton lays them out."""

import itertools
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import structlog

from forwardpass.server.errors import CallError, InvalidInput, nearest, quote
from forwardpass.server.loading.files import RepositoryFiles
from forwardpass.server.loading.load import State
from forwardpass.server.loading.loaded import Loaded
from forwardpass.server.loading.options import LoadOptions
from forwardpass.server.repository.layout import why_no_model
from forwardpass.server.repository.model import Model
from forwardpass.server.repository.version import Version
from forwardpass.server.scheduling.places import RETRY_AFTER
from forwardpass.v1 import model_service_pb2
from forwardpass.wire import Reason

_log = structlog.get_logger()


class RepositoryError(Exception):
    """A repository that cannot be used at all; the message says why."""


class Repository:
    """Every model found, and who answers for it.

    Args:
        folder: Where the models lie.
        options: How versions are loaded.

    Attributes:
        epoch: Another number after each change of a version's state, when the observers are called.
        ignored: What lies in the folder and is no model, with why not.

    Raises:
        RepositoryError: There is no such folder.
    """

    def __init__(self, folder: Path, options: LoadOptions) -> None:
        self._epochs = itertools.count(1)
        self.epoch = 0
        if not folder.is_dir():
            raise RepositoryError(
                f"{folder} is no folder; give the folder that holds <name>/<version>/model.onnx"
            )
        self._folder = folder
        self._files = RepositoryFiles(folder, options.follow_links)
        self._options = options
        self._observers: list[Callable[[], None]] = []
        self.ignored: dict[str, str] = {}
        self._closing = threading.Event()
        self._models: Mapping[str, Model] = {}
        self._scanning = threading.Lock()
        self._scan()

    @property
    def folder(self) -> Path:
        """Where the models lie."""
        return self._folder

    @property
    def models(self) -> Mapping[str, Model]:
        """Every model by its name."""
        return self._models

    @property
    def loaded(self) -> Iterator[tuple[Version, Loaded]]:
        """Every version that is in memory, and what it has there."""
        for model in self._models.values():
            for version in model.versions:
                if (loaded := version.loaded) is not None:
                    yield version, loaded

    def on_change(self, observer: Callable[[], None]) -> None:
        """Has the observer called after each change of a version's state."""
        self._observers.append(observer)

    def prepare(self) -> None:
        """Starts what loading will need, so that it is there by then."""
        sandbox, cache = self._options.sandbox, self._options.cache
        # Where something is known, most likely all is.
        if sandbox is not None and (cache is None or cache.empty):
            sandbox.start()

    def reconcile(self, *, settle: bool) -> bool:
        """Brings every model to what the folder asks for, several at a time, and returns then.

        Args:
            settle: Whether a version without a manifest must have stood still since the last look.

        Returns:
            Whether another look is due soon: a version is still settling, or has failed.
        """
        self._scan()

        def one(model: Model) -> bool:
            try:
                return not self._closing.is_set() and model.reconcile(settle=settle)
            except Exception:  # noqa: BLE001  # one bad model must not stop the others
                _log.exception("look_failed", model=model.name)
                return True

        with ThreadPoolExecutor(max(2, self._options.threads), "load") as pool:
            due = any(list(pool.map(one, self._models.values())))
        self._end_sandbox()
        self._notify()
        return due

    def load(self, reference: model_service_pb2.ModelReference) -> Version:
        """Loads a version, the newest where none is named.

        Raises:
            CallError: There is none such, or it does not pass its checks.
        """
        self._scan()
        model = self._model(reference.name)
        version = model.load(self._number(model, reference))
        self._end_sandbox()
        if version is None:
            raise CallError(
                Reason.MODEL_NOT_FOUND,
                f"model {quote(model.name)} has no such version",
                field="model.version",
            )
        self._notify()
        if not version.ready or version.refused:
            raise CallError(Reason.MODEL_FAILED, _failed(version), field="model")
        return version

    def unload(self, reference: model_service_pb2.ModelReference) -> list[Version]:
        """Releases a version, or all where none is named, after their last call.

        Raises:
            CallError: There is no such model.
        """
        model = self._model(reference.name)
        gone = model.unload(self._number(model, reference))
        self._notify()
        return gone

    def stop_loading(self) -> None:
        """Loads nothing more, and ends what is being tried in the sandbox."""
        self._closing.set()
        if self._options.sandbox is not None:
            self._options.sandbox.stop()

    def close(self) -> None:
        """Releases every model."""
        self.stop_loading()
        for model in self._models.values():
            model.close()
        self._options.watchdog.close()

    def find(self, reference: model_service_pb2.ModelReference) -> Loaded:
        """Returns what answers a reference, on a lease that must be given back.

        Raises:
            CallError: No such model or version, or one that does not answer, and why.
        """
        while True:
            version = self.describe(reference)
            if (loaded := version.lease()) is not None:
                return loaded
            # Between the two lines another version may have taken its place: look again.
            if not version.ready and self.describe(reference) is version:
                raise self._refusal(version)

    def hold(self, reference: model_service_pb2.ModelReference) -> Version | None:
        """Has the version whose number a reference names go on serving, until `Version.release`.

        None where it names none, or one that does not serve.
        """
        if reference.WhichOneof("selector") != "version":
            return None
        model = self._models.get(reference.name)
        version = model.find(reference.version) if model is not None else None
        if version is None or not version.ready:
            return None
        version.hold()
        return version

    def describe(self, reference: model_service_pb2.ModelReference) -> Version:
        """Returns the version that a reference means, whatever its state.

        Without a version that is the newest that is ready, else the newest.

        Raises:
            CallError: No such model or version.
        """
        model = self._model(reference.name)
        number = self._number(model, reference)
        if number is None:
            versions = model.versions
            version = model.newest_ready or (versions[0] if versions else None)
        else:
            version = model.find(number)
        if version is None and not model.versions:
            raise CallError(
                Reason.MODEL_NOT_FOUND, f"model {quote(model.name)} has no version", field="model"
            )
        if version is None:
            numbers = ", ".join(str(v.number) for v in model.versions[:8])
            raise CallError(
                Reason.MODEL_NOT_FOUND,
                f"model {quote(model.name)} has no version {number}; it has {numbers}",
                field="model.version",
            )
        return version

    def _model(self, name: str) -> Model:
        if not name:
            raise InvalidInput("no model is named", field="model.name")
        model = self._models.get(name)
        if model is None:
            raise CallError(
                Reason.MODEL_NOT_FOUND,
                f"no model {quote(name)}{nearest(name, self._models)}",
                field="model.name",
            )
        return model

    def _number(self, model: Model, reference: model_service_pb2.ModelReference) -> int | None:
        """Returns the number that a reference asks for; None where it asks for none."""
        selector = reference.WhichOneof("selector")
        if selector is None:
            return None
        if selector == "version":
            if reference.version < 1:
                raise InvalidInput(
                    f"version {reference.version}, but versions start at 1", field="model.version"
                )
            return reference.version
        number = model.labels.get(reference.label)
        if number is None:
            raise CallError(
                Reason.MODEL_NOT_FOUND,
                f"model {quote(model.name)} has no version labelled {quote(reference.label)}"
                f"{nearest(reference.label, model.labels)}",
                field="model.label",
            )
        return number

    def _refusal(self, version: Version) -> CallError:
        who = f"model {quote(version.name)}, version {version.number},"
        if version.failed:
            return CallError(Reason.MODEL_FAILED, _failed(version), field="model")
        if version.state in (State.MODEL_STATE_DRAINING, State.MODEL_STATE_UNLOADED):
            return CallError(
                Reason.MODEL_NOT_FOUND, f"{who} is not served any more", field="model.version"
            )
        model = self._models.get(version.name)
        if model is not None and model.not_asked_for:
            return CallError(
                Reason.MODEL_FAILED, f"{who} is not served: {model.not_asked_for}", field="model"
            )
        if model is None or model.ready:
            return CallError(
                Reason.MODEL_NOT_FOUND, f"{who} is not served; another is", field="model.version"
            )
        return CallError(
            Reason.MODEL_LOADING, f"{who} is still loading", field="model", retry_after=RETRY_AFTER
        )

    def _scan(self) -> None:
        """Looks for models; those that are known stay, those that are gone and idle go."""
        # One at a time: two would make two of a new model, and one of them would be lost.
        with self._scanning:
            models: dict[str, Model] = {}
            for path in sorted(self._folder.iterdir()):
                if self._is_model(path):
                    known = self._models.get(path.name)
                    models[path.name] = known or Model(
                        path, self._files, self._options, self._notify
                    )
            for name, model in self._models.items():
                if name not in models and model.ready:
                    models[name] = model
            self._models = models
            if self._options.cache is not None:
                self._options.cache.expect(sum(len(model.versions) for model in models.values()))

    def _is_model(self, path: Path) -> bool:
        """Whether an entry of the repository is a model; where it is none, says why, once."""
        if path.name.startswith("."):
            return False
        try:
            reason = why_no_model(self._files, path)
        except FileNotFoundError:
            return False  # It went while it was looked at.
        except OSError:
            return True  # It may be one, and says why it cannot be read.
        if reason and path.name not in self.ignored:
            _log.warning("ignored", path=path.name, reason=reason)
        if reason:
            self.ignored[path.name] = reason
        else:
            self.ignored.pop(path.name, None)
        return not reason

    def _end_sandbox(self) -> None:
        """Ends the process that tries graphs: it holds memory, and starts again when needed."""
        if self._options.sandbox is not None:
            self._options.sandbox.close()

    def _notify(self) -> None:
        self.epoch = next(self._epochs)
        for observer in self._observers:
            observer()


def _failed(version: Version) -> str:
    return (
        f"model {quote(version.name)}, version {version.number}, failed to load: "
        f"{version.state_reason}"
    )
