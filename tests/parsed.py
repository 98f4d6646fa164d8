"""How many requests a server has parsed."""

from typing import Any

import pytest

from forwardpass.server.native import embed, predict, streams
from forwardpass.server.open_inference import infer

PARSING = (
    (predict, "receive"),
    (embed, "receive"),
    (streams, "receive"),
    (infer, "receive"),
)


class Parsed:
    """Counts the requests that are parsed.

    Attributes:
        count: How many, from now on.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        for module, name in PARSING:
            monkeypatch.setattr(module, name, self._counted(getattr(module, name)))

    def _counted(self, function: Any) -> Any:
        def count(*arguments: Any) -> Any:
            self.count += 1
            return function(*arguments)

        return count
