"""How numbers are shown to people."""

# The least that four decimals show with two digits or more.
_LEAST = 1e-3


def number_text(value: float) -> str:
    """Returns a measure with four decimals, or three digits where those would hide it."""
    if value and abs(value) < _LEAST:
        return f"{value:.3g}"
    return f"{value:.4f}"
