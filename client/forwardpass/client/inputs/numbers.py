"""The numbers of a request."""

from forwardpass.client.errors import InvalidInput


def unsigned(value: int, field: str, bits: int) -> int:
    """Returns the number, or raises InvalidInput where the field's type cannot hold it."""
    if not 0 <= value < 1 << bits:
        raise InvalidInput(f"{field}: {value} is not in [0, 2**{bits})", field=field)
    return value
