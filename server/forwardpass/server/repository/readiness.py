"""Whether the server and each of its models can answer, and who wants to know."""

import threading
from collections.abc import Callable

from forwardpass.server.repository.repository import Repository


class Readiness:
    """Answers for the server, and for each model by its name.

    A model is ready when it has a version that passed its checks and is healthy. The server is
    ready when there are models, each of them is ready, and it is not draining.

    Args:
        repository: The models.
        services: Full names of gRPC services, which are ready when the server is.
    """

    def __init__(self, repository: Repository, services: tuple[str, ...]) -> None:
        self._repository = repository
        self._services = ("", *services)
        self._draining = False
        self._lock = threading.Lock()
        self._watchers: set[Callable[[], None]] = set()
        repository.on_change(self._notify)

    @property
    def draining(self) -> bool:
        """Whether the server is on its way out."""
        return self._draining

    @property
    def ready(self) -> bool:
        """Whether there are models, and every one answers."""
        models = self._repository.models
        return bool(models) and all(self._model_ready(name) for name in models)

    def of(self, service: str) -> bool | None:
        """Whether a service or model is ready; None where there is none of that name."""
        if service in self._services:
            return not self._draining and self.ready
        if service in self._repository.models:
            return self._model_ready(service)
        return None

    def watch(self, watcher: Callable[[], None]) -> Callable[[], None]:
        """Has the watcher called whenever an answer may have changed; returns how to stop that."""
        with self._lock:
            self._watchers.add(watcher)
        return lambda: self._forget(watcher)

    def drain(self) -> None:
        """Says from now on that nothing is ready."""
        self._draining = True
        self._notify()

    def _model_ready(self, name: str) -> bool:
        model = self._repository.models.get(name)
        return not self._draining and model is not None and model.ready and not model.failing

    def _forget(self, watcher: Callable[[], None]) -> None:
        with self._lock:
            self._watchers.discard(watcher)

    def _notify(self) -> None:
        with self._lock:
            watchers = list(self._watchers)
        for watcher in watchers:
            watcher()
