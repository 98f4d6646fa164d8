"""What every plot has in common."""

import os
import subprocess
import sys
from pathlib import Path

DRAWN = """
import sys
from forwardpass.trainer.plots.canvas import drawing, to_png
with drawing(2, 1) as figure:
    figure.subplots().set_title("$a_1$ and b")
    sys.stdout.buffer.write(to_png(figure))
"""


def test_a_plot_is_the_same_whatever_the_users_matplotlibrc_says(tmp_path: Path) -> None:
    """Text set by TeX would need one that is installed."""
    (tmp_path / "matplotlibrc").write_text("text.usetex: True\nsavefig.dpi: 7\nfont.size: 40\n")
    drawn = [
        subprocess.run(
            [sys.executable, "-c", DRAWN], env=os.environ | more, check=True, capture_output=True
        ).stdout
        for more in ({}, {"MATPLOTLIBRC": str(tmp_path / "matplotlibrc")})
    ]
    assert drawn[0] == drawn[1]
    assert drawn[0].startswith(b"\x89PNG")
