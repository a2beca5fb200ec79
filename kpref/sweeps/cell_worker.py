"""The process of a cell: reads a request, a line of JSON, from standard input, and writes the outcome to its output.

    {"settings": {...}, "metrics": [...], "memory": bytes or null}
    {"metrics": {name: [value, error]}} or {"failed": "raised" or "memory", "error": "a sentence"}

Standard input stays open as long as the sweep lives: its end, which comes however that ends, ends this process too.
"""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path
from typing import Any, BinaryIO

__all__: list[str] = []


def main() -> None:
    """Run one cell."""
    requests, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a library prints is no answer
    request = json.loads(requests.readline())
    threading.Thread(target=_end_with, args=(requests,), daemon=True).start()
    answers.write(json.dumps(_outcome(request)).encode() + b"\n")
    answers.flush()
    os._exit(0)  # the other thread waits for a line that does not come


def _end_with(requests: BinaryIO) -> None:
    requests.read()
    os._exit(1)


def _outcome(request: dict[str, Any]) -> dict[str, Any]:
    from kpref.cli import describe
    from kpref.sweeps.cell import run_cell

    try:
        if request["memory"] is not None:
            _limit(request["memory"])
        return {"metrics": run_cell(request["settings"], request["metrics"])}
    except MemoryError as error:
        return {"failed": "memory", "error": describe(error)}
    except Exception as error:
        # The system's words for a stack that has no room.
        short = request["memory"] is not None and "can't start new thread" in str(error)
        return {"failed": "memory" if short else "raised", "error": describe(error)}


def _limit(memory: int) -> None:
    """Let this process take so many bytes of addresses beyond those that it has now, with the package loaded."""
    import resource

    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + memory
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))


if __name__ == "__main__":
    main()
