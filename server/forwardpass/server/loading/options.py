"""What the server decides for every model that it loads."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from forwardpass.server.loading.cache import VerificationCache
from forwardpass.server.loading.sandbox import Sandbox
from forwardpass.server.onnx.providers import CPU_ONLY, Provider
from forwardpass.server.scheduling.watchdog import Watchdog
from forwardpass.server.transport.tick import Tick


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """What the server decides for every model.

    Attributes:
        threads: Threads for one run.
        cores: Cores that this process may keep busy.
        max_queued: The most requests that wait for one version.
        manifest_required: Whether a version without a manifest is refused.
        sandbox: The process that tries a graph first; None for no such process.
        providers: What runs the models, in order.
        tick: Where runs of cheap models are deferred to; None where each call has a thread.
        watchdog: Ends such runs where they take too long.
        cache: What earlier loads found out; None for no such memory.
        follow_links: Folders outside of the repository where links in it may end.
    """

    threads: int
    cores: int
    max_queued: int
    manifest_required: bool
    sandbox: Sandbox | None
    providers: Sequence[Provider] = CPU_ONLY
    tick: Tick | None = None
    watchdog: Watchdog = field(default_factory=Watchdog)
    cache: VerificationCache | None = None
    follow_links: Sequence[Path] = ()
