"""An environment with the KServe SDK, which pins much else."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SDK = "kserve==0.21.0"


@pytest.fixture(scope="session")
def sdk_python(pytestconfig: pytest.Config) -> Path:
    """The interpreter of an environment with the SDK: made once, and kept in pytest's cache."""
    assert pytestconfig.cache is not None
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    kept = pytestconfig.cache.mkdir(f"environment-{SDK.replace('==', '-')}-python-{version}")
    python, made = kept / "bin" / "python", kept / "made"
    if not made.exists():
        # What an interrupted attempt has left is no environment.
        shutil.rmtree(kept)
        subprocess.run([sys.executable, "-m", "venv", str(kept)], check=True)
        install = [str(python), "-m", "pip", "install", "--quiet", SDK]
        result = subprocess.run(install, capture_output=True, text=True, check=False)
        if result.returncode:
            last = (result.stderr.strip().splitlines() or ["pip said nothing"])[-1]
            pytest.skip(f"{SDK} cannot be installed: {last}")
        made.touch()
    return python
