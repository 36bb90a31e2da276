"""Memory of a training process on a CPU."""

import ctypes
import platform

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4  # malloc.h
_LARGEST = 2**31 - 1


def keep_freed_memory() -> None:
    """Have malloc keep what is freed for the next request, where it is glibc's.

    By default large blocks go back to the system at once and come again as fresh pages, which it clears first.
    Every activation is such a block: at 512 tokens a text this costs a third of a training step. The process
    stays as large as it once was.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    libc = ctypes.CDLL(None)
    libc.mallopt(_MMAP_MAX, 0)
    libc.mallopt(_TRIM_THRESHOLD, _LARGEST)
    libc.mallopt(_TOP_PAD, 256 * 2**20)
