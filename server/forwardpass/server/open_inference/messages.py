"""The protocol's messages. They live in a descriptor pool of their own and have no types."""

from typing import Any

from forwardpass.server.errors import InvalidInput
from forwardpass.server.rpc.receive import parse
from forwardpass.wire.open_inference import message_class

# No request but ModelInfer's has a reason to be longer.
_MAX_BYTES = 64 << 10


def message(name: str) -> Any:
    """Returns the class of a message, such as "ModelInferRequest"."""
    return message_class(name)


def read(kind: Any, data: bytes) -> Any:
    """Returns the message of a call that brings no tensors.

    Raises:
        InvalidInput: The bytes are no such message, or too many.
    """
    if len(data) > _MAX_BYTES:
        raise InvalidInput(
            f"a {kind.DESCRIPTOR.name} has at most {_MAX_BYTES} bytes, got {len(data)}",
            expected=_MAX_BYTES,
            got=len(data),
        )
    return parse(kind, data)
