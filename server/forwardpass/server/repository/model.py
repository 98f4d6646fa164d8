"""One model: which of its versions there are, which should serve, and which do."""

import json
import re
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import structlog

from forwardpass.artefact import MANIFEST_FILE
from forwardpass.server.loading.config import ConfigError, ModelConfig, read_config
from forwardpass.server.loading.files import fingerprint
from forwardpass.server.loading.load import LoadOptions
from forwardpass.server.repository.version import Version

LABELS_FILE = "labels.json"
_NUMBER = re.compile(r"[1-9][0-9]{0,17}")
_LABEL = re.compile(r"[A-Za-z][A-Za-z0-9._-]{0,63}")
_log = structlog.get_logger()


class Model:
    """A folder of versions.

    `reconcile` brings what serves to what the folder and the configuration ask for: a new version
    is loaded before an old one is released, and where none that is asked for passes its checks, the
    last good one stays.

    Args:
        folder: MODELS/<name>.
        options: How versions are loaded.
        changed: Called after each change of a version's state.
    """

    def __init__(self, folder: Path, options: LoadOptions, changed: Callable[[], None]) -> None:
        self.name = folder.name
        self.folder = folder
        self.versions: list[Version] = []
        self.labels: Mapping[str, int] = {}
        self._options = options
        self._changed = changed
        self._lock = threading.Lock()
        # Set by an explicit unload: nothing is loaded again until an explicit load.
        self._unloaded = False
        # Versions without a manifest, as they were at the last look, and those that changed since.
        self._looked: Mapping[int, object] = {}
        self._unsettled: set[int] = set()
        self.scan()

    @property
    def ready(self) -> bool:
        """Whether a version answers."""
        return any(version.ready for version in self.versions)

    @property
    def failing(self) -> bool:
        """Whether the version that answers where none is named is unhealthy."""
        version = self.newest_ready
        return version is not None and version.failing

    @property
    def newest_ready(self) -> Version | None:
        """The newest version that answers."""
        return next((version for version in self.versions if version.ready), None)

    def find(self, number: int) -> Version | None:
        """Returns a version by its number."""
        return next((version for version in self.versions if version.number == number), None)

    def labels_of(self, number: int) -> list[str]:
        """Returns the labels that point to a version."""
        return sorted(label for label, target in self.labels.items() if target == number)

    def scan(self) -> None:
        """Looks for versions; those that are known stay as they are."""
        known = {version.number: version for version in self.versions}
        numbers = set(_numbers(self.folder))
        kept = [v for number, v in known.items() if number in numbers or v.loaded is not None]
        added = [
            Version(self.name, number, self.folder / str(number), self._changed)
            for number in numbers - known.keys()
        ]
        # A new list: others may be reading the old one.
        self.versions = sorted([*kept, *added], key=lambda v: v.number, reverse=True)
        self.labels = _read_labels(self.folder)

    def reconcile(self, *, settle: bool) -> bool:
        """Loads what should serve and does not, then releases what should not.

        Args:
            settle: Whether a version without a manifest must have stood still since the last look.

        Returns:
            Whether another look is due soon: a version is still settling, or has failed.
        """
        with self._lock:
            if self._unloaded:
                return False
            self.scan()
            config = self._config()
            if config is None:
                return True
            if settle:
                self._look()
            serving = self._load_wanted(config)
            if serving:
                self._retire({v.number for v in self.versions} - serving)
            elif not self.folder.is_dir():
                self._retire({v.number for v in self.versions})
                self.scan()
            return bool(self._unsettled) or any(v.failed for v in self.versions)

    def load(self, number: int | None) -> Version | None:
        """Loads a version on request: one by its number beside what serves, or else the newest,
        which then serves as the configuration's policy says. None if there is none such.
        """
        with self._lock:
            self._unloaded = False
            self.scan()
            newest = self.versions[0] if self.versions else None
            chosen = newest if number is None else self.find(number)
            config = self._config()
            if chosen is None or config is None:
                return chosen
            if not chosen.ready:
                chosen.load(config, self._load_options())
            if number is None and chosen.ready:
                self._retire({v.number for v in self.versions} - self._load_wanted(config))
            return chosen

    def unload(self, number: int | None) -> list[Version]:
        """Releases a version on request, or all; returns those that were released."""
        with self._lock:
            self._unloaded = number is None
            gone = [v for v in self.versions if v.ready and number in (None, v.number)]
            self._retire({v.number for v in gone})
            return gone

    def close(self) -> None:
        """Releases every version, for good."""
        with self._lock:
            self._unloaded = True
            self._retire({v.number for v in self.versions})

    def _config(self) -> ModelConfig | None:
        """Returns the configuration; where it cannot be honoured, nothing new is loaded."""
        try:
            return read_config(self.folder)
        except ConfigError as error:
            for version in self.versions:
                if version.worth_loading and not version.ready:
                    version.fail(str(error), fingerprint(version.folder))
        return None

    def _load_options(self) -> LoadOptions:
        manifested = any((v.folder / MANIFEST_FILE).is_file() for v in self.versions)
        required = manifested or self._options.manifest_required
        return replace(self._options, manifest_required=required)

    def _load_wanted(self, config: ModelConfig) -> set[int]:
        """Loads what is wanted, newest first; returns the numbers that should go on serving."""
        options = self._load_options()
        kind, which = config.versions
        labelled = set(self.labels.values())
        serving: set[int] = set()
        newest = 0
        for version in self.versions:
            if version.number in self._unsettled or not version.folder.is_dir():
                continue
            latest = kind == "latest" and isinstance(which, int) and newest < which
            specific = kind == "specific" and isinstance(which, tuple) and version.number in which
            if not (latest or specific or kind == "all" or version.number in labelled):
                continue
            if version.worth_loading:
                version.load(config, options)
            if version.ready:
                serving.add(version.number)
                newest += 1
        return serving

    def _look(self) -> None:
        """Notes the versions without a manifest that have changed since the last look."""
        seen = {
            version.number: fingerprint(version.folder)
            for version in self.versions
            if version.worth_loading and not (version.folder / MANIFEST_FILE).is_file()
        }
        self._unsettled = {n for n, files in seen.items() if self._looked.get(n) != files}
        self._looked = seen

    def _retire(self, numbers: set[int]) -> None:
        for version in self.versions:
            if version.number in numbers:
                version.retire()


def _numbers(folder: Path) -> list[int]:
    """Returns the numbered folders; links are not followed, they could lead out."""
    try:
        return [
            int(path.name)
            for path in folder.iterdir()
            if _NUMBER.fullmatch(path.name) and path.is_dir() and not path.is_symlink()
        ]
    except (FileNotFoundError, NotADirectoryError):
        return []


def _read_labels(folder: Path) -> dict[str, int]:
    """Returns the labels that the operator has given: {"stable": 3, "canary": 4}."""
    path = folder / LABELS_FILE
    try:
        labels = json.loads(path.read_text(encoding="utf-8"))
        good = isinstance(labels, dict) and all(
            _LABEL.fullmatch(label) and isinstance(number, int) for label, number in labels.items()
        )
    except FileNotFoundError:
        return {}
    except (OSError, ValueError):
        good, labels = False, {}
    if not good:
        _log.error(
            "labels_ignored", model=folder.name, reason=f"{LABELS_FILE} is not label: number"
        )
        return {}
    return dict(labels)
