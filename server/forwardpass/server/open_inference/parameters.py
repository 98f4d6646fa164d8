"""The parameters of a request, its inputs and its outputs.

A parameter that we do not know is ignored, as Triton ignores one that no backend reads. One that
asks for what is not done here is refused, and so is an unknown one of Triton's own prefix.
"""

from typing import Any

from forwardpass.server.errors import CallError, InvalidInput, quote
from forwardpass.server.rpc.schema import MAX_PARAMETERS
from forwardpass.wire import Reason

_MAX_KEY = 128
_RESERVED = "triton_"
# Asks for an answer without tensors where a model may give several; here each request has one.
_EMPTY_FINAL = "triton_enable_empty_final_response"
_SHARED_MEMORY = "shared_memory_"
_SEQUENCE = ("sequence_id", "sequence_start", "sequence_end")
_INTEGERS = ("int64_param", "uint64_param")


def check(parameters: Any, field: str) -> None:
    """Refuses parameters that are too many, too long, reserved, or ask for what is not done.

    Args:
        parameters: InferParameter by name.
        field: What they belong to, for the error.

    Raises:
        InvalidInput: More than 64, a key of more than 128 characters, or a reserved one.
        CallError: UNIMPLEMENTED for shared memory and sequences.
    """
    if len(parameters) > MAX_PARAMETERS:
        raise InvalidInput(
            f"{len(parameters)} parameters, but a message may have {MAX_PARAMETERS}",
            field=field,
            expected=MAX_PARAMETERS,
            got=len(parameters),
        )
    for key, parameter in parameters.items():
        if len(key) > _MAX_KEY:
            raise InvalidInput(
                f"a parameter's name has {len(key)} characters, but may have {_MAX_KEY}",
                field=field,
                expected=_MAX_KEY,
                got=len(key),
            )
        if key.startswith(_SHARED_MEMORY):
            raise CallError(
                Reason.UNIMPLEMENTED,
                f"parameter {quote(key)}: shared memory is not supported; "
                "send tensors in raw_input_contents",
                field=field,
            )
        # A client that sends sequence_id 0 says that there is no sequence.
        if key in _SEQUENCE and _value(parameter):
            raise CallError(
                Reason.UNIMPLEMENTED,
                f"parameter {quote(key)}: sequences are not supported; send each step's state",
                field=field,
            )
        if key.startswith(_RESERVED) and key != _EMPTY_FINAL:
            raise InvalidInput(f"parameter {quote(key)} is reserved", field=field)


def integer(parameters: Any, key: str, field: str) -> int:
    """Returns an integer parameter; 0 where it is not given.

    Raises:
        InvalidInput: It is no integer, or negative.
    """
    if key not in parameters:
        return 0
    parameter = parameters[key]
    choice = parameter.WhichOneof("parameter_choice")
    value = _value(parameter)
    if choice not in _INTEGERS or value < 0:
        raise InvalidInput(
            f"parameter {quote(key)} must be an integer of 0 or more, in int64_param, "
            f"got {quote(str(value))} in {choice}",
            field=field,
        )
    return int(value)


def _value(parameter: Any) -> Any:
    choice = parameter.WhichOneof("parameter_choice")
    return None if choice is None else getattr(parameter, choice)
