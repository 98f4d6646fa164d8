"""What both ends must read alike: arrays <-> tensors, failures <-> gRPC status details, and how
images are prepared.

    ndarray ── to_tensor ──► Tensor ── from_tensor ──► ndarray
    Failure ── to_details ──► google.rpc.Status bytes ── from_details ──► Failure
    Preparation ── to_preparation ──► ImagePreparation ── from_preparation ──► Preparation

Used by the server and the client, so that both ends agree by construction.
"""

from forwardpass.wire.dtypes import DTYPES, Array, ElementType, element_type
from forwardpass.wire.preparation import (
    MAX_IMAGE_PIXELS,
    Filter,
    Preparation,
    PreparationError,
    Resize,
    from_preparation,
    to_preparation,
)
from forwardpass.wire.status import CODES, DETAILS_KEY, PUSHBACK_KEY, Failure, Reason
from forwardpass.wire.tensors import MAX_RANK, TensorError, fill_tensor, from_tensor, to_tensor

__all__ = [
    "CODES",
    "DETAILS_KEY",
    "DTYPES",
    "MAX_IMAGE_PIXELS",
    "MAX_RANK",
    "PUSHBACK_KEY",
    "Array",
    "ElementType",
    "Failure",
    "Filter",
    "Preparation",
    "PreparationError",
    "Reason",
    "Resize",
    "TensorError",
    "element_type",
    "fill_tensor",
    "from_preparation",
    "from_tensor",
    "to_preparation",
    "to_tensor",
]
