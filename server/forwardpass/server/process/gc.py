"""When Python looks for garbage: not while a server starts, and seldom afterwards."""

import gc

# More than the calls in flight hold: else a round comes with each burst of them.
_OBJECTS = 20_000


def pause() -> None:
    """Looks for none: imports and models stay, and looking takes a fourteenth of a start."""
    gc.disable()


def keep() -> None:
    """Never looks at what is there by now: what has been imported stays, and is most there is."""
    gc.freeze()


def settle() -> None:
    """Looks again, but not at what is there for good, which would hold up calls.

    What failed to load goes first.

    What a call leaves needs no collector, so that its rounds are for what is left by chance.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_OBJECTS)
    gc.enable()
