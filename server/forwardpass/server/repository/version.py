"""One version of a model, and the state it is in."""

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import structlog

from forwardpass.server.loading.config import ModelConfig
from forwardpass.server.loading.files import RepositoryFiles, fingerprint
from forwardpass.server.loading.load import LOAD_ERRORS, State, load
from forwardpass.server.loading.loaded import Loaded
from forwardpass.server.loading.options import LoadOptions
from forwardpass.server.metrics.counters import ModelCounters
from forwardpass.v1 import model_service_pb2

# A version that failed is tried again when its files change, and otherwise after this many seconds,
# then twice as many, and so on up to the last.
_FIRST_RETRY = 30.0
_LAST_RETRY = 600.0
_HELD = "another version is served; this one as long as a stream names it"
_FAILING = "runs fail, and so does an input that it answered when it was loaded"
# Of the files, and what was decided of the configuration.
Stamp = tuple[tuple[tuple[str, tuple[int, ...]], ...], ModelConfig | None]
NOTHING: Stamp = ((), None)
_log = structlog.get_logger()


class Version:
    """A numbered folder of a model.

    DISCOVERED ─► VERIFYING ─► LOADING ─► WARMING ─► READY ─► DRAINING ─► UNLOADED
                      └───────────┴──────────┴─► FAILED

    Attributes:
        is_lapsed: Whether it serves for those that hold it alone.

    Args:
        name: The model's name.
        number: The version's number.
        folder: Where its files lie.
        files: Opens them.
        changed: Called after each change of state.
        lapse: Ends those that have lapsed and are not held any more.
    """

    def __init__(  # noqa: PLR0917  # each is one thing
        self,
        name: str,
        number: int,
        folder: Path,
        files: RepositoryFiles,
        changed: Callable[[], None],
        lapse: Callable[[], None],
    ) -> None:
        self.name = name
        self.number = number
        self.folder = folder
        self.counters = ModelCounters()
        self.state: model_service_pb2.ModelState.ValueType = State.MODEL_STATE_DISCOVERED
        self.state_reason = ""
        self.loaded: Loaded | None = None
        # One for each stream that names it; threads may add and take without a lock.
        self._holds: deque[None] = deque()
        self.is_lapsed = False
        self._files = files
        self._changed = changed
        self._lapse = lapse
        self._retry_seconds = _FIRST_RETRY
        self._retry_at = 0.0
        # What was last tried and did not pass, and what is loaded.
        self._failed_stamp: Stamp | None = None
        self._loaded_stamp: Stamp | None = None

    @property
    def ready(self) -> bool:
        """Whether it answers."""
        return self.state == State.MODEL_STATE_READY

    @property
    def failed(self) -> bool:
        """Whether it did not pass its checks."""
        return self.state == State.MODEL_STATE_FAILED

    @property
    def failing(self) -> bool:
        """Whether it is ready, but unhealthy; calls are still tried."""
        loaded = self.loaded
        return self.ready and loaded is not None and loaded.executor.failure_detector.failing

    @property
    def refused(self) -> bool:
        """Whether its files did not pass when they were last tried; it may be ready by others."""
        return self._failed_stamp is not None

    def stamp(self, config: ModelConfig | None) -> Stamp:
        """Returns what changes with whatever a load depends on.

        Args:
            config: What the model's config.pbtxt decides; None where it cannot be honoured.
        """
        # Which versions serve makes no other version of any of them.
        relevant = None if config is None else replace(config, versions=ModelConfig().versions)
        return fingerprint(self.folder), relevant

    def has_changed(self, config: ModelConfig | None) -> bool:
        """Whether what is loaded is not what the files are now."""
        return self.ready and self.stamp(config) != self._loaded_stamp

    def acquit(self, config: ModelConfig) -> None:
        """Forgets what did not pass once the files are again those that are loaded."""
        if self.ready and self.refused and not self.has_changed(config):
            self._failed_stamp = None
            self._move(self.state)

    def worth_loading(self, config: ModelConfig | None) -> bool:
        """Whether to try: not while the files that failed are the same, but for now and then."""
        if self.ready and not self.has_changed(config):
            return False
        if self._failed_stamp is None:
            return True
        return time.monotonic() >= self._retry_at or self.stamp(config) != self._failed_stamp

    @property
    def is_held(self) -> bool:
        """Whether a stream names it."""
        return bool(self._holds)

    def hold(self) -> None:
        """Asks for it to go on serving when another takes its place; until `release`."""
        self._holds.append(None)

    def release(self) -> None:
        """Takes back a `hold`; the last one ends a version that has lapsed."""
        self._holds.pop()
        if self.is_lapsed and not self._holds:
            # It waits for the last call, and this may be the thread that ends it.
            threading.Thread(target=self._lapse, name="retire", daemon=True).start()

    def keep(self, *, is_lapsed: bool) -> None:
        """Says whether it serves for those that hold it alone."""
        if self.is_lapsed != is_lapsed:
            self.is_lapsed = is_lapsed
            self._move(self.state, _HELD if is_lapsed else "")

    def lease(self) -> Loaded | None:
        """Returns what answers calls, to be given back with `Loaded.leases.leave`.

        None where the version is not ready.
        """
        loaded = self.loaded
        return loaded if loaded is not None and loaded.leases.enter() else None

    def load(self, config: ModelConfig, options: LoadOptions) -> None:
        """Takes the version from its folder to ready, or to failed with the reason.

        One that is ready serves meanwhile, and goes on if what its files are now does not pass.
        """
        stamp, before = self.stamp(config), self.loaded
        try:
            loaded = load(
                self.name,
                self.number,
                self.folder,
                config,
                self.counters,
                files=self._files,
                options=options,
                moved=self._move if before is None else lambda _: None,
                judged=self._judged,
                changed=self._changed,
            )
        except LOAD_ERRORS as error:
            self.fail(str(error), stamp)
        except OSError as error:
            what = Path(error.filename).name if isinstance(error.filename, str) else "it"
            self.fail(f"cannot read {what}: {error.strerror or error}", stamp)
        except Exception as error:  # noqa: BLE001  # one bad model must not stop the others
            _log.exception("load_failed", model=self.name, version=self.number)
            self.fail(f"unexpected {type(error).__name__}: {error}", stamp)
        else:
            self._retry_seconds = _FIRST_RETRY
            self._failed_stamp, self._loaded_stamp = None, stamp
            self.loaded = loaded
            self._move(State.MODEL_STATE_READY)
            _log.info(
                "model_ready",
                model=self.name,
                version=self.number,
                seconds=round(loaded.seconds, 3),
                cached=loaded.cached,
            )
            if before is not None:
                before.close()

    def fail(self, reason: str, stamp: Stamp = NOTHING) -> None:
        """Says that the version will not serve as its files are, and why.

        Args:
            reason: Why.
            stamp: That of the files that failed.
        """
        self._failed_stamp = stamp
        self._retry_at = time.monotonic() + self._retry_seconds
        self._retry_seconds = min(2 * self._retry_seconds, _LAST_RETRY)
        _log.error("model_failed", model=self.name, version=self.number, reason=reason)
        if self.loaded is None:
            self._move(State.MODEL_STATE_FAILED, reason)
        else:
            self._move(self.state, f"its files have changed, and are not taken up: {reason}")

    def pass_over(self, reason: str) -> None:
        """Says why it was found and is not wanted; empty where it may be."""
        if self.state == State.MODEL_STATE_DISCOVERED and self.state_reason != reason:
            self._move(self.state, reason)

    def retire(self) -> None:
        """Takes no more calls, ends when the last one has its answer, and releases the model."""
        loaded = self.loaded
        if loaded is None:
            return
        self._move(State.MODEL_STATE_DRAINING)
        loaded.close()
        self.loaded = None
        self.is_lapsed = False
        self._move(State.MODEL_STATE_UNLOADED)
        _log.info("model_unloaded", model=self.name, version=self.number)

    def _judged(self) -> None:
        """Says that it has become unhealthy, or healthy again."""
        if self.failing:
            self.state_reason = _FAILING
            _log.error("model_failing", model=self.name, version=self.number, reason=_FAILING)
        else:
            self.state_reason = ""
            _log.info("model_recovered", model=self.name, version=self.number)
        self._changed()

    def _move(self, state: "model_service_pb2.ModelState.ValueType", reason: str = "") -> None:
        self.state_reason = reason
        self.state = state
        self._changed()
