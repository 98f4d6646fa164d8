"""What runs on the CPU may take of memory, all models together.

They share one arena of ONNX Runtime, which has a maximum: a run that would go beyond it fails
alone. No limit of the process would do, as gRPC core ends the process where it is refused memory.
Weights lie beside the arena.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import onnxruntime as ort

from forwardpass.server.errors import RunTooLarge

# What a session needs to take part.
ENTRIES: Mapping[str, str] = {
    "session.use_env_allocators": "1",
    "session.use_device_allocator_for_initializers": "1",
}
# In the options of a run: gives back what the arena has and nobody uses, once the run has ended.
SHRINK = ("memory.enable_memory_arena_shrinkage", "cpu:0")
# Outputs may have this part of the arena, as each is copied out of it.
_OUTPUT_PART = 4
_TOO_MUCH = re.compile(r"Available memory of (\d+) is smaller than requested bytes of (\d+)")


@dataclass(slots=True)
class _Limit:
    bytes: int = 1 << 40


_limit = _Limit()


def limit_run_memory(most: int) -> None:
    """Gives the sessions that are made from now on an arena of at most `most` bytes."""
    _limit.bytes = most
    info: Any = ort.OrtMemoryInfo(
        "Cpu", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT
    )
    ort.create_and_register_allocator(info, ort.OrtArenaCfg({"max_mem": most}))


def bytes_asked_for(error: Exception) -> int | None:
    """Returns how many bytes a failed run asked the arena for in vain; None if it did not."""
    found = _TOO_MUCH.search(str(error))
    return None if found is None else int(found[2])


def too_much_for_a_step(asked: int) -> RunTooLarge:
    """Returns what a caller is told whose run asked for so many bytes in vain."""
    return RunTooLarge(
        f"a step of the run asks for {asked} bytes, but all runs at a time have {_limit.bytes} "
        "(run_memory_bytes); ask for less at a time"
    )


def check_outputs(size: int) -> None:
    """Refuses outputs whose size is known after the run only, before they are copied.

    Raises:
        RunTooLarge: They are too large.
    """
    most = _limit.bytes // _OUTPUT_PART
    if size > most:
        raise RunTooLarge(
            f"the outputs have {size} bytes, but may have {most} (a quarter of run_memory_bytes); "
            "ask for less at a time"
        )
