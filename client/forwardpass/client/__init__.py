"""Calls the models that a forwardpass server serves: numpy in, numpy out.

    from forwardpass.client import Client

    with Client("127.0.0.1:8001") as client:
        digits = client.predict("mnist-cnn", images=["seven.png", "two.jpg"], top_k=3)
        print(digits.classes[0][0].label, digits.classes[0][0].probability)
        vectors = client.embed("mnist-cnn", images=["seven.png"]).vectors  # float32 (1, dimension)
        faces = client.generate("gan", count=64, seed=7).samples  # uint8 (64, h, w, channels)

Every failure of a call is a `ForwardpassError`, of a subclass that tells why.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from forwardpass.client.async_client import AsyncClient
    from forwardpass.client.card import (
        Card,
        DataSource,
        ImageInput,
        OutputDifference,
        PixelStatistics,
        PublishedModel,
        Quantization,
        RowIndependence,
        TensorSpec,
    )
    from forwardpass.client.channel import Tls
    from forwardpass.client.client import Client
    from forwardpass.client.errors import (
        AccessDenied,
        Cancelled,
        Forked,
        ForwardpassError,
        InvalidInput,
        InvalidSetting,
        MessageTooLarge,
        ModelFailed,
        ModelNotFound,
        Overloaded,
        ServerError,
        TimedOut,
        Unavailable,
        Unsupported,
        WrongTask,
    )
    from forwardpass.client.models import (
        Batching,
        EmbeddingSpace,
        GoldenResult,
        Model,
        ModelState,
        ModelSummary,
        Signature,
    )
    from forwardpass.client.polarity import PolarityWarning
    from forwardpass.client.preparation import Preparation
    from forwardpass.client.results import ClassScore, Embeddings, Generated, Prediction, Timing

# Where each public name lives. It is loaded when it is first asked for, so that the command line,
# which lies in this package, can print its help without loading grpc and numpy.
_HOMES = {
    "async_client": ("AsyncClient",),
    "card": (
        "Card",
        "DataSource",
        "ImageInput",
        "OutputDifference",
        "PixelStatistics",
        "PublishedModel",
        "Quantization",
        "RowIndependence",
        "TensorSpec",
    ),
    "channel": ("Tls",),
    "client": ("Client",),
    "errors": (
        "AccessDenied",
        "Cancelled",
        "Forked",
        "ForwardpassError",
        "InvalidInput",
        "InvalidSetting",
        "MessageTooLarge",
        "ModelFailed",
        "ModelNotFound",
        "Overloaded",
        "ServerError",
        "TimedOut",
        "Unavailable",
        "Unsupported",
        "WrongTask",
    ),
    "models": (
        "Batching",
        "EmbeddingSpace",
        "GoldenResult",
        "Model",
        "ModelState",
        "ModelSummary",
        "Signature",
    ),
    "polarity": ("PolarityWarning",),
    "preparation": ("Preparation",),
    "results": ("ClassScore", "Embeddings", "Generated", "Prediction", "Timing"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "AccessDenied",
    "AsyncClient",
    "Batching",
    "Cancelled",
    "Card",
    "ClassScore",
    "Client",
    "DataSource",
    "EmbeddingSpace",
    "Embeddings",
    "Forked",
    "ForwardpassError",
    "Generated",
    "GoldenResult",
    "ImageInput",
    "InvalidInput",
    "InvalidSetting",
    "MessageTooLarge",
    "Model",
    "ModelFailed",
    "ModelNotFound",
    "ModelState",
    "ModelSummary",
    "OutputDifference",
    "Overloaded",
    "PixelStatistics",
    "PolarityWarning",
    "Prediction",
    "Preparation",
    "PublishedModel",
    "Quantization",
    "RowIndependence",
    "ServerError",
    "Signature",
    "TensorSpec",
    "TimedOut",
    "Timing",
    "Tls",
    "Unavailable",
    "Unsupported",
    "WrongTask",
]


def __getattr__(name: str) -> Any:
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{home}"), name)


def __dir__() -> list[str]:
    return __all__
