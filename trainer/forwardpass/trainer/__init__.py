"""From data to a checked artefact.

    data ─ recipe ─► model ─ fit ─► weights ─ export ─► ONNX ─ parity ─► MODELS/<name>/<n>

A recipe (`recipes/`, one file each) says what is learned from what; `fit` is the loop; `export/`
turns the weights into a file that ONNX Runtime answers from as torch does, or publishes nothing.
A model of one's own goes the same way from its weights on:

    from forwardpass.trainer import Pixels, publish

    publish(module, "shapes", inputs={"image": images}, labels=names, preprocess=Pixels(size=64))
"""

# As typing's own, without loading it: `import forwardpass.trainer` costs next to nothing.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from forwardpass.trainer.errors import (
        ParityError,
        PublishError,
        TrainerError,
        UnknownNameError,
    )
    from forwardpass.trainer.export.preprocess import Columns, Pixels, Texts
    from forwardpass.trainer.export.published import Published
    from forwardpass.trainer.publishing import publish

# Where each public name lives. It is loaded when it is first asked for, so that the command line,
# which lies in this package, can print its help without loading torch.
_HOME_OF = {
    "Columns": "export.preprocess",
    "ParityError": "errors",
    "Pixels": "export.preprocess",
    "PublishError": "errors",
    "Published": "export.published",
    "Texts": "export.preprocess",
    "TrainerError": "errors",
    "UnknownNameError": "errors",
    "publish": "publishing",
}

__all__ = [
    "Columns",
    "ParityError",
    "Pixels",
    "PublishError",
    "Published",
    "Texts",
    "TrainerError",
    "UnknownNameError",
    "publish",
]


def __getattr__(name: str) -> "Any":
    from importlib import import_module

    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{home}"), name)


def __dir__() -> list[str]:
    return __all__
