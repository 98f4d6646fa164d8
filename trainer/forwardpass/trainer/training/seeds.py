"""Random numbers that depend on the seed and on what they are for, never on what ran before.

Each epoch draws from generators keyed by (seed, purpose, epoch). So a run that was killed and
resumed at epoch e draws what the uninterrupted run drew, and a checkpoint needs no generator state.
"""

import hashlib
import os
import random

import numpy as np
import torch


def derive(seed: int, *keys: str | int) -> int:
    """Returns a seed in [0, 2**63) for one purpose, independent of the seeds of all others."""
    text = "/".join(map(str, (seed, *keys)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1


def generator(seed: int, *keys: str | int) -> torch.Generator:
    """Returns a CPU generator for one purpose."""
    return torch.Generator().manual_seed(derive(seed, *keys))


def seed_everything(seed: int, *keys: str | int) -> None:
    """Seeds the global generators, which layers' initial weights and dropout draw from.

    Also turns on torch's deterministic algorithms: an operation that has none raises RuntimeError.
    """
    # cuBLAS reads this when it starts; without it torch refuses to be deterministic on a GPU.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(mode=True)
    derived = derive(seed, *keys)
    torch.manual_seed(derived)
    np.random.seed(derived % 2**32)  # noqa: NPY002 - libraries that use numpy's global generator
    random.seed(derived)
