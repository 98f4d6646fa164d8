"""Loads one model as a server would."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from tiny_models import Publisher, TinyModel

from forwardpass.server.build import open_repository
from forwardpass.server.repository.version import Version
from forwardpass.server.settings import Settings


@pytest.fixture
def load_version(repository: Publisher) -> Iterator[Callable[..., Version]]:
    """Loads a model with what its config.pbtxt says, and settings."""
    opened = []

    def load(tiny: TinyModel, config: str = "", **settings: Any) -> Version:
        repository("whole", tiny)
        if config:
            (repository.root / "whole" / "config.pbtxt").write_text(config)
        chosen = {"threads": 1, "cache_dir": "off", **settings}
        opened.append(open_repository(Settings(models=repository.root, **chosen)))
        opened[-1].reconcile(settle=False)
        (version,) = opened[-1].models["whole"].versions
        return version

    yield load
    for one in opened:
        one.close()
