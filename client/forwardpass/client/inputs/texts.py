"""The texts of a request."""

from collections.abc import Iterable
from typing import TypeAlias

from forwardpass.client.errors import InvalidInput
from forwardpass.client.inputs.frames import cells

Texts: TypeAlias = str | Iterable[str] | None


def texts(given: Texts) -> list[str]:
    """Returns the texts.

    Args:
        given: One text, or any iterable of texts: a list, or a column of a data frame.

    Raises:
        InvalidInput: Something is no text, or cannot be sent as UTF-8.
    """
    if given is None:
        return []
    listed = [given] if isinstance(given, str) else list(cells(given, "texts"))
    for row, text in enumerate(listed):
        check_text(text, f"texts[{row}]")
    return listed


def check_text(text: str, field: str) -> None:
    """Raises InvalidInput where it is no text, or holds half of a surrogate pair.

    UTF-8 has no place for such a half.
    """
    if not isinstance(text, str):
        raise InvalidInput(
            f"{field} is {type(text).__name__}, expected str: decode bytes, fill in what is "
            "missing",
            field=field,
        )
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidInput(f"{field} is no valid text: {error}", field=field) from None
