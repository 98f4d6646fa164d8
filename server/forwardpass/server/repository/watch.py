"""Watches the repository, and has it reconciled after each change."""

import threading
from collections.abc import Callable
from pathlib import Path

import structlog

# Between two looks at a version without a manifest, which must have stood still meanwhile.
_SETTLE_MS = 1_000
# Changes that come within this time of each other are one change.
_DEBOUNCE_MS = 400
# Looks without a change: a network file system tells of none, and a folder that is filled while its
# watch is being set up may go unnoticed.
_LOOK_EVERY = 5
_log = structlog.get_logger()


class Watcher:
    """A thread that looks after the repository until it is stopped.

    Args:
        folder: What to watch.
        reconcile: Called after a change; returns whether another look is due soon.
    """

    def __init__(self, folder: Path, reconcile: Callable[[], bool]) -> None:
        self._folder = folder
        self._reconcile = reconcile
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watcher", daemon=True)
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        """Whether the thread still looks."""
        return self._thread.is_alive()

    def stop(self, timeout: float) -> None:
        """Ends the thread, and waits for that at most `timeout` seconds."""
        self._stop.set()
        self._thread.join(timeout)

    def _watch(self) -> None:
        # Few servers watch, and those that do not need not wait for it.
        from watchfiles import watch

        while not self._stop.is_set():
            # Once at the start: something may have changed before the watch began.
            due, idle = self._look(), 0
            try:
                for changes in watch(
                    self._folder,
                    watch_filter=lambda _, path: "/.tmp-" not in path,
                    stop_event=self._stop,
                    debounce=_DEBOUNCE_MS,
                    rust_timeout=_SETTLE_MS,
                    yield_on_timeout=True,
                    # Folders that this user cannot read are looked at now and then.
                    ignore_permission_denied=True,
                ):
                    idle += 1
                    if changes or due or idle >= _LOOK_EVERY:
                        due, idle = self._look(), 0
            except Exception as error:  # noqa: BLE001  # whatever it is, the next look goes without
                _log.warning("watch_failed", reason=f"{type(error).__name__}: {error}")
                self._stop.wait(_LOOK_EVERY * _SETTLE_MS / 1000)

    def _look(self) -> bool:
        try:
            return self._reconcile()
        except OSError as error:
            _log.warning("look_failed", reason=error.strerror)
        except Exception:  # noqa: BLE001  # the next look is another try
            _log.exception("look_failed")
        return True
