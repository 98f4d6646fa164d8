"""A GPU, or the reason why there is none."""

import ctypes

import pytest


@pytest.fixture(scope="session", autouse=True)
def gpu() -> None:
    """Skips where the driver finds no GPU; where it does, what does not work is a failure."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError as error:
        pytest.skip(f"no NVIDIA driver here: {error}")
    count = ctypes.c_int()
    if code := driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)):
        pytest.skip(f"the NVIDIA driver finds no GPU: error {code}")
    if not count.value:
        pytest.skip("the NVIDIA driver finds no GPU")
