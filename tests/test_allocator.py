"""Memory that a command has freed stays with it, and is given back where it is missed."""

import subprocess
import sys

import pytest

from kpref import memory
from kpref._allocator import keep_freed_memory

SCRIPT = """
import resource
import numpy as np
from kpref._allocator import give_back, keep_freed_memory
assert keep_freed_memory()
faults = []
for turn in range(3):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    np.ones(1 << 22)  # 32 MiB
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
    if turn:
        give_back()
print(*faults)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="of the GNU C library")
def test_freed_memory_serves_again_until_it_is_given_back():
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=False)
    if "AssertionError" in done.stderr:
        pytest.skip("another C library")
    first, again, anew = map(int, done.stdout.split())
    assert again < first / 2
    assert anew > again


def test_it_is_given_back_before_memory_is_said_to_be_too_little(monkeypatch):
    left = [10]
    monkeypatch.setattr(memory, "available_memory", lambda: left[0])
    monkeypatch.setattr(memory, "give_back", lambda: left.__setitem__(0, 1000))
    memory.require_memory(100, "something")
    with pytest.raises(MemoryError, match="something needs"):
        memory.require_memory(10_000, "something")


def test_another_system_is_left_alone(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    assert not keep_freed_memory()
