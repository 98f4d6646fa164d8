"""How callers say that pictures are to be prepared."""

from forwardpass.wire import Preparation

__all__ = ["Preparation"]
