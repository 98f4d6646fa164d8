"""Shards on a Ray cluster (extra `ray`). Another engine is as short: an `Executor` that submits."""

import os
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any, ParamSpec, TypeVar

# Before the import, which would report that Ray is used.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
import ray

P = ParamSpec("P")
T = TypeVar("T")
# Of a shard whose worker dies.
_RETRIES = 5


class RayExecutor(Executor):
    """Runs each call as a Ray task; one whose worker dies is run again.

    Args:
        address: The cluster's; None for the one of this machine or of RAY_ADDRESS, or else a new
            one in this machine.
        cpus: How many cores a call takes.
    """

    def __init__(self, address: str | None = None, cpus: int = 1) -> None:
        if not ray.is_initialized():
            ray.init(address, include_dashboard=False, log_to_driver=False)
        self._cpus = cpus

    @property
    def at_once(self) -> int:
        """How many calls the cluster's cores take at a time."""
        return max(1, int(ray.cluster_resources().get("CPU", 1)) // self._cpus)

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """See `Executor.submit`."""
        remote: Any = ray.remote(fn)
        task = remote.options(num_cpus=self._cpus, max_retries=_RETRIES, retry_exceptions=False)
        future: Future[T] = task.remote(*args, **kwargs).future()
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """See `Executor.shutdown`."""
        del wait, cancel_futures
        ray.shutdown()
