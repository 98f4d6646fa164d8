"""Work that is put off until the transport has taken in all that is ready.

This is how calls that arrive together share one run of a model without waiting for one another:
each puts its job in the model's queue, and the first one puts off running it.
"""

from collections.abc import Callable


class Tick:
    """The steps put off; used on the transport's own thread only.

    Attributes:
        steps: What is to be done, in order; the transport looks whether there is any.
    """

    __slots__ = ("steps",)

    def __init__(self) -> None:
        self.steps: list[Callable[[], None]] = []

    def defer(self, step: Callable[[], None]) -> None:
        """Has the step done at the end of the turn. It must not raise."""
        self.steps.append(step)

    def end(self) -> None:
        """Does what was put off; what that puts off in its turn waits for the next end."""
        steps, self.steps = self.steps, []
        for step in steps:
            step()
