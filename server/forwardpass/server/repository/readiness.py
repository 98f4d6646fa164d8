"""Whether the server and each of its models can answer, and who wants to know."""

import threading
from collections.abc import Callable, Collection
from enum import StrEnum

from forwardpass.server.repository.repository import Repository


class Policy(StrEnum):
    """When a server that starts becomes ready, by the models that it finds."""

    ALL = "all"
    ANY = "any"


class Readiness:
    """Answers for the server, and for each model by its name.

    A model is ready when it has a version that passed its checks and is healthy. The server becomes
    ready once, as its policy says, and from then on is ready as long as one model is: a model that
    loads, is unloaded, is broken or becomes unhealthy takes nobody else out.

    Args:
        repository: The models.
        services: Full names of gRPC services, which are ready when the server is.
        policy: ALL: the server becomes ready when every model found at the start is ready. ANY:
            when all of them have been tried, and one is ready.
        may_be_empty: Whether, with ANY, it becomes ready without any model: others may come.
    """

    def __init__(
        self,
        repository: Repository,
        services: tuple[str, ...],
        policy: Policy = Policy.ALL,
        *,
        may_be_empty: bool = False,
    ) -> None:
        self._repository = repository
        self._services = ("", *services)
        self._policy = policy
        self._may_be_empty = may_be_empty and policy is Policy.ANY
        # The models found at the start, once all of them have been tried.
        self._found: frozenset[str] | None = None
        # What the server has been: ready, and ready with a model.
        self._has_been_ready = False
        self._has_served = False
        self._is_leaving = False
        self._draining = False
        self._lock = threading.Lock()
        self._watchers: set[Callable[[], None]] = set()
        # How often anything has changed, and which models served after how many changes.
        self._changes = 0
        self._seen: tuple[int, frozenset[str]] = (-1, frozenset())
        repository.on_change(self._notify)

    @property
    def draining(self) -> bool:
        """Whether the server is on its way out."""
        return self._draining

    @property
    def started(self) -> bool:
        """Whether every model found at the start has been tried once."""
        return self._found is not None

    @property
    def ready(self) -> bool:
        """Whether the server answers, draining or not."""
        models = self._repository.models
        serving = self._serving()
        with self._lock:
            self._has_served = self._has_served or bool(serving)
            if not self._has_been_ready and not self._becomes_ready(serving, models.keys()):
                return False
            self._has_been_ready = True
            return bool(serving) or (self._may_be_empty and not self._has_served)

    def of(self, service: str) -> bool | None:
        """Whether a service or model is ready; None where there is none of that name."""
        if service in self._services:
            return not self._is_leaving and self.ready
        if service in self._repository.models:
            return self.of_model(service)
        return None

    def of_model(self, name: str) -> bool:
        """Whether a model is ready."""
        return not self._is_leaving and self._serves(name)

    def start(self) -> None:
        """Says that every model found at the start has been tried once."""
        self._found = frozenset(self._repository.models)
        self._notify()

    def watch(self, watcher: Callable[[], None]) -> Callable[[], None]:
        """Has the watcher called whenever an answer may have changed; returns how to stop that."""
        with self._lock:
            self._watchers.add(watcher)
        return lambda: self._forget(watcher)

    def leave(self) -> None:
        """Says from now on that nothing is ready, while calls are still taken."""
        self._is_leaving = True
        self._notify()

    def drain(self) -> None:
        """Says that the server is on its way out, and nothing is ready."""
        self._is_leaving = self._draining = True
        self._notify()

    def _becomes_ready(self, serving: frozenset[str], models: Collection[str]) -> bool:
        if self._found is None:
            return False
        if self._policy is Policy.ANY:
            return bool(serving) or self._may_be_empty
        # A model that has been removed is waited for no longer.
        return bool(serving) and self._found.intersection(models) <= serving

    def _serving(self) -> frozenset[str]:
        """Returns which models serve; found out once after each change, as callers ask often."""
        changes, serving = self._seen
        # Read before the models are looked at: what changes meanwhile is looked at again.
        if changes != (now := self._changes):
            serving = frozenset(filter(self._serves, self._repository.models))
            self._seen = now, serving
        return serving

    def _serves(self, name: str) -> bool:
        model = self._repository.models.get(name)
        return model is not None and model.ready and not model.failing

    def _forget(self, watcher: Callable[[], None]) -> None:
        with self._lock:
            self._watchers.discard(watcher)

    def _notify(self) -> None:
        with self._lock:
            self._changes += 1
        # Looked at after each change: it becomes ready once, also where nobody asks meanwhile.
        _ = self.ready
        with self._lock:
            watchers = list(self._watchers)
        for watcher in watchers:
            watcher()
