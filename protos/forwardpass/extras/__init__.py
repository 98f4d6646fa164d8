"""The extras of the package: what a command says where one is not installed."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

# Extra -> the modules that it installs and the plain package does not.
EXTRAS = {
    "server": (
        "cryptography",
        "grpc_health",
        "grpc_reflection",
        "onnxruntime",
        "prometheus_client",
        "pydantic",
        "structlog",
        "watchfiles",
    ),
    "trainer": (
        "lightning_fabric",
        "matplotlib",
        "onnx",
        "onnxruntime",
        "onnxscript",
        "scipy",
        "skl2onnx",
        "sklearn",
        "torch",
        "torchmetrics",
    ),
    "embed": ("pyarrow",),
    "map": ("matplotlib", "sklearn"),
    "ray": ("pyarrow", "ray"),
    "search": ("hnswlib", "pyarrow"),
    "sklearn": ("sklearn",),
}


@contextmanager
def needing(extra: str, program: str, *, code: int = 1) -> Iterator[None]:
    """Ends a program with a sentence where a module of an extra is missing.

    Args:
        extra: The extra that what runs inside needs.
        program: The name that the sentence begins with.
        code: The exit code.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        module = (error.name or "").partition(".")[0]
        if module not in EXTRAS[extra]:
            raise
        sys.stderr.write(
            f"{program}: error: the module {module!r} is not installed; it comes with the extra "
            f"{extra!r}: in the root of a clone, pip install '.[{extra}]'\n"
        )
        sys.exit(code)
