import pytest

from forwardpass.trainer.display import number_text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.98055, "0.9806"),
        (21.04, "21.0400"),
        (0.0, "0.0000"),
        (1.0, "1.0000"),
        (1e-18, "1e-18"),
        (1.5673e-19, "1.57e-19"),
        (-0.00012345, "-0.000123"),
    ],
)
def test_a_measure_is_never_shown_as_0_unless_it_is(value: float, text: str) -> None:
    assert number_text(value) == text
