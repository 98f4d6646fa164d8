"""The only code that knows bytes: arrays <-> tensors, failures <-> gRPC status details.

    ndarray ── to_tensor ──► Tensor ── from_tensor ──► ndarray
    Failure ── to_details ──► google.rpc.Status bytes ── from_details ──► Failure

Used by the server and the client, so that both ends agree by construction.
"""

from forwardpass.wire.dtypes import DTYPES, Array, ElementType, element_type
from forwardpass.wire.status import CODES, DETAILS_KEY, PUSHBACK_KEY, Failure, Reason
from forwardpass.wire.tensors import MAX_RANK, TensorError, from_tensor, to_tensor

__all__ = [
    "CODES",
    "DETAILS_KEY",
    "DTYPES",
    "MAX_RANK",
    "PUSHBACK_KEY",
    "Array",
    "ElementType",
    "Failure",
    "Reason",
    "TensorError",
    "element_type",
    "from_tensor",
    "to_tensor",
]
