"""How much memory there is, asked before a large allocation rather than found out after it."""

from __future__ import annotations

from pathlib import Path

from kpref._allocator import give_back

__all__ = ["available_memory", "require_memory"]


def available_memory() -> int | None:
    """Bytes that can still be allocated without swapping, or None where the system does not say.

    The smaller of the kernel's estimate and what the control group of this process has left.
    """
    found = [value for value in (_meminfo(), _control_group()) if value is not None]
    return min(found) if found else None


def require_memory(needed: float, what: str) -> None:
    """Raise MemoryError, saying how much is needed and available, if `needed` bytes for `what` are not there."""
    available = available_memory()
    if available is not None and needed > available:
        give_back()  # what this process has freed may still be with it
        available = available_memory()
    if available is not None and needed > available:
        raise MemoryError(f"{what} needs {needed / 2**30:.3g} GiB of memory; {available / 2**30:.3g} GiB is available")


def _meminfo() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    sizes = [line.split()[1] for line in lines if line.startswith("MemAvailable:")]
    return int(sizes[0]) * 1024 if sizes else None


def _control_group() -> int | None:
    folder = Path("/sys/fs/cgroup")
    try:
        limit = (folder / "memory.max").read_text().strip()
        used = int((folder / "memory.current").read_text())
    except (OSError, ValueError):
        return None
    return None if limit == "max" else max(0, int(limit) - used)
