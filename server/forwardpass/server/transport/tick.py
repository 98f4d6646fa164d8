"""Work that is deferred until the transport has taken in everything that is ready.

So calls that arrive together share one run of a model without waiting for one another: each puts
its job in the model's queue, and the first one defers running it.
"""

from collections.abc import Callable


class Tick:
    """The deferred steps; used on the transport's own thread only.

    Attributes:
        steps: The steps, in order; the transport looks whether there is any.
    """

    __slots__ = ("steps",)

    def __init__(self) -> None:
        # Always the same list, as the transport holds on to it.
        self.steps: list[Callable[[], None]] = []

    def defer(self, step: Callable[[], None]) -> None:
        """Runs the step at the end of the tick. It must not raise."""
        self.steps.append(step)

    def end(self) -> None:
        """Runs the deferred steps; a step that these defer waits for the next tick."""
        steps = self.steps.copy()
        self.steps.clear()
        for step in steps:
            step()
