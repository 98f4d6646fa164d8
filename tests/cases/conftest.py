import pytest

from .harness import Gate


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch, no_inline_runs: None) -> Gate:
    """To be asked for before the server, which keeps what it calls."""
    return Gate(monkeypatch)
