"""One model: which of its versions there are, which should serve, and which do."""

import json
import re
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import structlog

from forwardpass.artefact import MANIFEST_FILE
from forwardpass.server.loading.config import ModelConfig, read_config
from forwardpass.server.loading.config_text import CONFIG_FILE, ConfigError
from forwardpass.server.loading.files import FileError, RepositoryFiles, fingerprint
from forwardpass.server.loading.options import LoadOptions
from forwardpass.server.repository.layout import is_number, why_no_folder
from forwardpass.server.repository.version import Version

LABELS_FILE = "labels.json"
_MAX_LABELS_BYTES = 1 << 16
# The number of what stands for a folder that cannot be read, so that it is listed, and why.
_UNREADABLE = 0
_LABEL = re.compile(r"[A-Za-z][A-Za-z0-9._-]{0,63}")
_log = structlog.get_logger()


class Model:
    """A folder of versions.

    `reconcile` brings what serves to what the folder and the configuration ask for: a new version
    is loaded before an old one is released, and where none that is asked for passes its checks, the
    last good one stays.

    Args:
        folder: MODELS/<name>.
        files: Opens the repository's files.
        options: How versions are loaded.
        changed: Called after each change of a version's state.
    """

    def __init__(
        self,
        folder: Path,
        files: RepositoryFiles,
        options: LoadOptions,
        changed: Callable[[], None],
    ) -> None:
        self.name = folder.name
        self.folder = folder
        self.versions: list[Version] = []
        self.labels: Mapping[str, int] = {}
        self._files = files
        self._options = options
        self._changed = changed
        self._lock = threading.Lock()
        # Set by an explicit unload: nothing is loaded again until an explicit load.
        self._unloaded = False
        # Versions without a manifest, as they were at the last look, and those that changed since.
        self._looked: Mapping[int, object] = {}
        self._unsettled: set[int] = set()
        # What is named as versions are, and is none, with why not.
        self._others: Mapping[str, str] = {}
        # Why the configuration asks for no version that there is; empty where it asks for one.
        self.not_asked_for = ""
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
        """Looks for versions; those that are known stay as they are.

        Whatever is the matter with the folder is this model's affair, and is told as its state.
        """
        try:
            self._scan()
        except OSError as error:
            self._refuse(f"cannot read its folder: {error.strerror or error}")
        except Exception as error:  # noqa: BLE001  # one bad model must not stop the others
            _log.exception("look_failed", model=self.name)
            self._refuse(f"unexpected {type(error).__name__}: {error}")

    def _scan(self) -> None:
        known = {version.number: version for version in self.versions}
        found, others = _numbers(self._files, self.folder)
        numbers = set(found)
        if others != self._others:
            self._others = others
            for name, reason in others.items():
                _log.warning("version_ignored", model=self.name, version=name, reason=reason)
        if others and not numbers:
            name, reason = next(iter(others.items()))
            self._refuse(f"version {name}: {reason}")
            return
        kept = [v for number, v in known.items() if number in numbers or v.loaded is not None]
        added = [
            self._version(number, self.folder / str(number)) for number in numbers - known.keys()
        ]
        # A new list: others may be reading the old one.
        self.versions = sorted([*kept, *added], key=lambda v: v.number, reverse=True)
        self.labels = _read_labels(self._files, self.folder)

    def _version(self, number: int, folder: Path) -> Version:
        return Version(self.name, number, folder, self._files, self._changed, self._retire_lapsed)

    def _refuse(self, reason: str) -> None:
        """Says why there are no versions; those that serve go on."""
        serving = [version for version in self.versions if version.loaded is not None]
        if serving:
            _log.error("look_failed", model=self.name, reason=reason)
            self.versions = serving
            return
        if self.versions and self.versions[0].state_reason == reason:
            return
        stand_in = self._version(_UNREADABLE, self.folder)
        self.versions = [stand_in]
        stand_in.fail(reason)

    @property
    def _readable(self) -> bool:
        return all(version.number != _UNREADABLE for version in self.versions)

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
            config = self._config() if self._readable else None
            if config is None:
                return True
            if settle:
                self._look(config)
            serving = self._load_wanted(config)
            if serving:
                self._retire_others(serving)
            elif not _is_there(self._files, self.folder):
                self._retire({v.number for v in self.versions})
                self.scan()
            return bool(self._unsettled) or any(v.failed or v.refused for v in self.versions)

    def load(self, number: int | None) -> Version | None:
        """Loads a version on request: one by its number beside what serves, or else the newest,
        which then serves as the configuration's policy says. None if there is none such.
        """
        with self._lock:
            self._unloaded = False
            self.scan()
            newest = self.versions[0] if self.versions else None
            chosen = newest if number is None else self.find(number)
            config = self._config() if self._readable else None
            if chosen is None or config is None:
                return chosen
            if not chosen.ready or chosen.has_changed(config):
                chosen.load(config, self._load_options())
            if number is None and chosen.ready:
                self._retire_others(self._load_wanted(config))
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
            config = read_config(self._files, self.folder)
        except ConfigError as error:
            reason = str(error)
        except Exception as error:  # noqa: BLE001  # as in `scan`
            _log.exception("config_failed", model=self.name)
            reason = f"{CONFIG_FILE}: unexpected {type(error).__name__}: {error}"
        else:
            for version in self.versions:
                version.acquit(config)
            return config
        for version in self.versions:
            if version.worth_loading(None):
                version.fail(reason, version.stamp(None))
        return None

    def _load_options(self) -> LoadOptions:
        manifested = any(_has_manifest(version) for version in self.versions)
        required = manifested or self._options.manifest_required
        return replace(self._options, manifest_required=required)

    def _load_wanted(self, config: ModelConfig) -> set[int]:
        """Loads what is wanted, newest first; returns the numbers that should go on serving."""
        options = self._load_options()
        kind, which = config.versions
        labelled = set(self.labels.values())
        serving: set[int] = set()
        newest = 0
        is_any_wanted = False
        for version in self.versions:
            if not _is_there(self._files, version.folder):
                continue
            latest = kind == "latest" and isinstance(which, int) and newest < which
            specific = kind == "specific" and isinstance(which, tuple) and version.number in which
            if not (latest or specific or kind == "all" or version.number in labelled):
                continue
            is_any_wanted = True
            if version.number not in self._unsettled and version.worth_loading(config):
                version.load(config, options)
            if version.ready:
                serving.add(version.number)
                newest += 1
        self._tell_of_policy(config, is_any_wanted=is_any_wanted)
        return serving

    def _tell_of_policy(self, config: ModelConfig, *, is_any_wanted: bool) -> None:
        """Says why none of the versions is wanted, if that is so."""
        reason = ""
        if self.versions and not is_any_wanted:
            there = ", ".join(str(version.number) for version in self.versions)
            reason = (
                f"version_policy in {CONFIG_FILE} asks for {_listed(config)}, and there are {there}"
            )
        if reason and reason != self.not_asked_for:
            _log.warning("model_not_served", model=self.name, reason=reason)
        self.not_asked_for = reason
        for version in self.versions:
            version.pass_over(reason)

    def _look(self, config: ModelConfig) -> None:
        """Notes the versions without a manifest that have changed since the last look."""
        seen = {
            version.number: fingerprint(version.folder)
            for version in self.versions
            if version.worth_loading(config) and not _has_manifest(version)
        }
        self._unsettled = {n for n, files in seen.items() if self._looked.get(n) != files}
        self._looked = seen

    def _retire_others(self, serving: set[int]) -> None:
        """Releases what need not serve. The newest of those that streams name stays for them: one
        alone, as each takes memory.
        """
        others = [v for v in self.versions if v.ready and v.number not in serving]
        held = next((version for version in others if version.is_held), None)
        for version in self.versions:
            version.keep(is_lapsed=version is held)
        self._retire({version.number for version in others if version is not held})

    def _retire_lapsed(self) -> None:
        with self._lock:
            self._retire({v.number for v in self.versions if v.is_lapsed and not v.is_held})

    def _retire(self, numbers: set[int]) -> None:
        for version in self.versions:
            if version.number in numbers:
                version.retire()


def _listed(config: ModelConfig) -> str:
    _, which = config.versions
    return ", ".join(map(str, which)) if isinstance(which, tuple) else str(which)


def _has_manifest(version: Version) -> bool:
    try:
        return (version.folder / MANIFEST_FILE).is_file()
    except OSError:
        return False  # Reading it will fail again, and say why.


def _numbers(files: RepositoryFiles, folder: Path) -> tuple[list[int], dict[str, str]]:
    """Returns the numbers of the versions, and of what has such a name but is none, why not."""
    numbers: list[int] = []
    others: dict[str, str] = {}
    try:
        entries = [path for path in folder.iterdir() if is_number(path.name)]
    except (FileNotFoundError, NotADirectoryError):
        return numbers, others
    for path in entries:
        try:
            reason = why_no_folder(files, path)
        except FileNotFoundError:
            continue  # It went while it was looked at.
        except OSError:
            reason = ""  # Reading it will fail again, and say why.
        if reason:
            others[path.name] = reason
        else:
            numbers.append(int(path.name))
    return numbers, others


def _is_there(files: RepositoryFiles, path: Path) -> bool:
    try:
        return files.has_folder(path)
    except OSError:
        return True  # Reading it will fail again, and say why.


def _read_labels(files: RepositoryFiles, folder: Path) -> dict[str, int]:
    """Returns the labels that the operator has given: {"stable": 3, "canary": 4}."""
    try:
        labels = json.loads(files.read(folder / LABELS_FILE, _MAX_LABELS_BYTES))
        good = isinstance(labels, dict) and all(
            _LABEL.fullmatch(label) and isinstance(number, int) for label, number in labels.items()
        )
        reason = f"{LABELS_FILE} is not label: number"
    except FileNotFoundError:
        return {}
    except RecursionError:
        good, reason = False, f"{LABELS_FILE} is nested too deep"
    except FileError as error:
        good, reason = False, str(error)
    except (OSError, ValueError):
        good, reason = False, f"{LABELS_FILE} is not label: number"
    if not good:
        _log.error("labels_ignored", model=folder.name, reason=reason)
        return {}
    return dict(labels)
