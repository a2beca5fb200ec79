"""One contender of ``kpref bench`` in a process of its own, so that its memory and threads are nobody else's.

``python -m kpref.bench.contender_process CONTENDER PROBLEM`` serves it to `kpref.bench.timing`: a request is a line of
JSON on standard input, its answer a line of JSON on standard output.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import re
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from kpref.bench.peers import CONTENDERS
from kpref.bench.workload import Contender, Problem


def resident_memory(name: str) -> int | None:
    """Read ``VmRSS``, or its peak ``VmHWM``, of this process in bytes; None where the system does not tell."""
    try:
        found = re.search(rf"^{name}:\s+(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
    except OSError:
        return None
    return int(found.group(1)) * 1024 if found else None


def reset_peak_memory() -> bool:
    """Give freed memory back to the system and start ``VmHWM`` anew (proc(5)); False where that is not possible."""
    gc.collect()
    try:
        getattr(ctypes.CDLL(None), "malloc_trim", int)(0)
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def measure_memory(contender: Contender, column: str) -> tuple[Any, float, int | None]:
    """Build, apply one column once, and measure the time of the one and the peak of the memory of both.

    `contender`: warmed up, so that imports and code do not count.
    Returns what `contender.build` made, the seconds for that, and the peak: bytes above those in use at the start, or
    None where the system does not tell.
    """
    can_reset = reset_peak_memory()
    before = resident_memory("VmRSS")
    start = time.perf_counter()
    built = contender.build()
    seconds = time.perf_counter() - start
    contender.apply(built, column)
    after = resident_memory("VmHWM")
    if not can_reset or before is None or after is None:
        return built, seconds, None
    return built, seconds, after - before


def warmed_up(kind: type[Contender], problem: Problem, column: str) -> Contender:
    """Make a contender after one run of its code: on a tiny problem, unless that would not compile it for this one."""
    contender = kind(problem)
    warm = contender if kind.compiles_for_a_shape else kind(replace(problem, trials=2, steps=3))
    warm.apply(warm.build(), column)
    return contender


def answers(contender: Contender, column: str, requests: Iterator[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """Answer requests: the first answer, unasked, is the memory; then ``build``, ``time`` and ``save``.

    `column`: what the memory is measured of.
    `requests`: ``{"do": "build"}``, answered by the seconds it took; ``{"do": "time", "column": ..., "calls": n,
    "budget": seconds}``, answered by the seconds of n calls that follow an untimed one, fewer if they take longer than
    the budget; ``{"do": "save", "column": ..., "file": ...}``, which saves the result as an npy file.
    Yields ``{"memory": bytes or None, "dtype": ..., "seconds": [...]}``, the last for a first build, then ``{"seconds":
    [...]}`` for each request.
    """
    built, first, peak = measure_memory(contender, column)
    yield {"memory": peak, "dtype": contender.dtype, "seconds": [first]}
    for request in requests:
        seconds = []
        if request["do"] == "build":
            built = None  # not two of them at a time
            start = time.perf_counter()
            built = contender.build()
            seconds.append(time.perf_counter() - start)
        elif request["do"] == "time":
            contender.apply(built, request["column"])
            while len(seconds) < request["calls"] and sum(seconds) < request["budget"]:
                start = time.perf_counter()
                contender.apply(built, request["column"])
                seconds.append(time.perf_counter() - start)
        else:
            np.save(request["file"], contender.to_numpy(contender.apply(built, request["column"])))
        yield {"seconds": seconds}


def main(name: str, arguments: str) -> None:
    """Serve one contender until standard input ends. An error is the last answer: ``{"error": message}``."""
    # Only answers go to the standard output that `kpref bench` reads; whatever a library prints goes to standard error.
    channel = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    try:
        kind, problem = CONTENDERS[name], Problem(**json.loads(arguments))
        heaviest = "NTK" if "NTK" in kind.columns(problem) else "gradient"
        contender = warmed_up(kind, problem, heaviest)
        for answer in answers(contender, heaviest, map(json.loads, sys.stdin)):
            print(json.dumps(answer), file=channel, flush=True)
    except Exception as error:  # whatever it is, the others are to go on
        print(json.dumps({"error": f"{type(error).__name__}: {error}"}), file=channel, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
