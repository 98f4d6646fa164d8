"""What kind of CPU this machine has, which what was measured on another says little about."""

from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")
# What tells kinds of CPUs apart, on x86-64 and on aarch64; the rest differs from core to core and
# from moment to moment.
_FIELDS = (
    *("vendor_id", "cpu family", "model", "model name", "stepping", "microcode", "flags"),
    *("CPU implementer", "CPU architecture", "CPU variant", "CPU part", "CPU revision", "Features"),
)


def processor() -> dict[str, str]:
    """Returns the kind and the instruction sets of the first core.

    Raises:
        OSError: The kernel does not tell.
    """
    facts = {}
    with CPUINFO.open(encoding="utf-8") as lines:
        # A paragraph for each core; the kernel takes its time over each.
        for line in lines:
            if not line.strip():
                break
            name, _, value = line.partition(":")
            if name.strip() in _FIELDS:
                facts[name.strip()] = value.strip()
    return facts
