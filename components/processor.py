"""What this machine's processor computes well."""

import shutil
from functools import cache
from pathlib import Path


@cache
def _description() -> str:
    """What Linux says of it; nothing elsewhere."""
    try:
        return Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return ""


def is_intel() -> bool:
    """Whether it is one of Intel's."""
    return "GenuineIntel" in _description()


def multiplies_bfloat16() -> bool:
    """Whether it has instructions for products in bfloat16; without them float32 is several times faster."""
    return "avx512_bf16" in _description() or "amx_bf16" in _description()


def multiplies_int8() -> bool:
    """Whether it has instructions for products in int8; without them torch's are slower than float32."""
    return "avx512_vnni" in _description() or "avx_vnni" in _description()


def has_gpu() -> bool:
    """Whether there is a GPU of NVIDIA's beside it."""
    return shutil.which("nvidia-smi") is not None and any(Path("/dev").glob("nvidia[0-9]*"))
