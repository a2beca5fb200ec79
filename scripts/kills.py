"""Kill runs that replace a report, at random moments and at every call of the system, and look at what is left.

    python scripts/kills.py                        100 kills at random moments, and three for every call
    python scripts/kills.py --random 9 --every 7   a sample: 9 at random moments, every seventh call

A child writes one generation of a report after another to the same path with `kpref.analysis.folders.write_folder`.
It is ended by SIGINT, SIGTERM or SIGKILL, sent from outside at random moments, or by itself right before and right
after each call of the system that it makes (mkdir, open, fsync, rename, exchange, unlink, rmdir, flock ...), once with
the exchange of the system and once with the two renames that stand in for it. After each kill:

- the path holds one whole report, of the generation before the kill or of the one that was being written; with the two
  renames nothing may be there either, if the signal was SIGKILL and the next run brings the report back;
- SIGINT and SIGTERM end with their exit status and leave nothing else behind;
- the next run removes what SIGKILL left, and nothing else: not a folder that is somebody else's in spite of its name,
  and not that of a run that is alive.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from kpref import _exchange
from kpref._signals import Terminated, orderly_ends
from kpref.analysis import folders

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGKILL)
NAME = "report"
FILES = ("figure.png", "metrics.json", "report.html")
CALLS = ("mkdir", "open", "close", "fsync", "rename", "unlink", "rmdir", "scandir")
LONGEST = 60.0  # seconds for a child: it does nothing that lasts


def generation(number: int) -> dict[str, bytes]:
    """A report whose files all carry its number, and are too long for one write."""
    index = {"program": "kpref", "files": list(FILES), "generation": number}
    body = f"{number}\n".encode() * 40_000
    return {name: json.dumps(index).encode() if name == folders.INDEX else body for name in FILES}


def standing(path: Path) -> int | None:
    """The generation at the path; None if nothing is there.

    Raises
    ------
    AssertionError
        If what is there is not whole.
    """
    if not path.exists():
        return None
    number = int(json.loads((path / folders.INDEX).read_text())["generation"])
    found = {entry.name: entry.read_bytes() for entry in path.iterdir()}
    assert found == generation(number), f"the report at {path} is not whole: {sorted(found)}"
    return number


def write_for_ever(path: Path, first: int) -> None:
    """The child of kills from outside: says that it has begun, and writes until it is ended."""
    print("begun", flush=True)
    number = first
    while True:
        folders.write_folder(path, generation(number))
        number += 1


def write_once(path: Path, number: int, point: int, kill: int, exchanges: bool) -> None:
    """The child of kills from inside: ends itself at the given point, or prints how many points there are."""
    count = 0

    def watched(call: Callable[..., Any]) -> Callable[..., Any]:
        def pass_by() -> None:
            nonlocal count
            if count == point:
                count += 1
                os.kill(os.getpid(), kill)
                time.sleep(0)  # SIGINT and SIGTERM are raised between two steps of Python
            count += 1

        def replacement(*args: Any, **kwargs: Any) -> Any:
            pass_by()
            result = call(*args, **kwargs)
            pass_by()
            return result

        return replacement

    for name in CALLS:
        setattr(os, name, watched(getattr(os, name)))
    fcntl.flock = watched(fcntl.flock)
    folders.exchange = watched(folders.exchange if exchanges else lambda first, second: False)
    folders.write_folder(path, generation(number))
    print(count, flush=True)


def child(args: list[str]) -> subprocess.Popen[str]:
    """This script again, as the process to be killed."""
    return subprocess.Popen(
        [sys.executable, __file__, *args], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


class Place:
    """A folder with a report in it, and beside it what a run must not touch."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.path = folder, folder / NAME
        self.next = 0
        self.rewrite()
        foreign = folder / f".{NAME}.kpref-0123abcd"  # named as ours are, but there is no lock in it
        foreign.mkdir()
        (foreign / "thesis.tex").write_text("years of work")
        claimed = folder / f".{NAME}.kpref-4567cdef"  # with a lock, but kpref did not write the rest
        (claimed / "new").mkdir(parents=True)
        (claimed / "lock").write_text("")
        (claimed / "new" / "thesis.tex").write_text("years of work")
        (folder / f".{NAME}.kpref-89abcdef").write_text("a file")
        (folder / f".{NAME}.kpref-mine").mkdir()
        self.neighbour = folders._staging(self.path)  # a run that is alive
        self.neighbour.__enter__()
        self.others = self.listing()

    def listing(self) -> set[str]:
        """Everything beside the report, with all that is in it."""
        found = {str(entry.relative_to(self.folder)) for entry in self.folder.rglob("*")}
        return {name for name in found if not (name == NAME or name.startswith(f"{NAME}/"))}

    def rewrite(self) -> None:
        """The next run."""
        folders.write_folder(self.path, generation(self.next))
        self.next += 1

    def check(self, process: subprocess.Popen[str], kill: int, exchanges: bool, allowed: range) -> None:
        """What must hold after a kill, and after the run that follows it."""
        _, errors = process.communicate(timeout=LONGEST)
        expected = -signal.SIGKILL if kill == signal.SIGKILL else 128 + kill
        assert process.returncode == expected, f"exit status {process.returncode} after signal {kill}: {errors}"
        number = standing(self.path)
        if number is None:
            assert (kill, exchanges) == (signal.SIGKILL, False), f"no report at the path after signal {kill}"
            folders.sweep(self.path)
            number = standing(self.path)
        assert number in allowed, f"generation {number} at the path; expected one of {allowed}"
        if kill != signal.SIGKILL:
            assert self.listing() == self.others, f"left by signal {kill}: {self.listing() - self.others}"
        self.next = allowed.stop
        self.rewrite()
        assert standing(self.path) == self.next - 1
        assert self.listing() == self.others, f"after the next run: {self.listing() ^ self.others}"


def kill_at_random(place: Place, kills: int, seed: int) -> None:
    """Kills from outside."""
    moments = random.Random(seed)
    for index in range(kills):
        kill = SIGNALS[index % len(SIGNALS)]
        with child(["--child", str(place.path), str(place.next)]) as process:
            assert process.stdout is not None
            process.stdout.readline()
            time.sleep(moments.uniform(0, 0.05))
            process.send_signal(kill)
            place.check(process, kill, True, range(place.next - 1, place.next + 1_000_000))


def kill_at_calls(place: Place, every: int, exchanges: bool) -> int:
    """Kills from inside, at each point with each signal; returns how many there were."""
    mode = "exchange" if exchanges else "renames"

    def run(point: int, kill: int) -> subprocess.Popen[str]:
        return child(["--child", str(place.path), str(place.next), str(point), str(int(kill)), mode])

    with run(-1, signal.SIGKILL) as process:
        points = int(process.communicate(timeout=LONGEST)[0])
    place.next += 1
    kills = 0
    for point in range(0, points, every):
        for kill in SIGNALS:
            with run(point, kill) as process:
                place.check(process, kill, exchanges, range(place.next - 1, place.next + 1))
            kills += 1
    return kills


def main() -> None:
    """Run what is asked for."""
    parser = argparse.ArgumentParser(
        allow_abbrev=False, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--random", type=int, default=100, metavar="N", help="kills at random moments")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="take every N-th point of an exchange")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        place = Place(Path(folder))
        kill_at_random(place, args.random, args.seed)
        print(f"{args.random} kills at random moments: the old or the new report stands, the rest is swept", flush=True)
        with suppress(OSError):
            first, second = Path(folder) / "first", Path(folder) / "second"
            for name in (first, second):
                name.mkdir()
            can_exchange = _exchange.exchange(first, second)
            for name in (first, second):
                name.rmdir()
        for exchanges in (True, False) if can_exchange else (False,):
            kills = kill_at_calls(place, args.every, exchanges)
            words = "one exchange" if exchanges else "two renames"
            print(f"{kills} kills before and after the calls of a run with {words}: the same", flush=True)
        place.neighbour.__exit__(None, None, None)


def be_child(args: list[str]) -> int:
    """End as `kpref.cli.main` does."""
    path, number = Path(args[0]), int(args[1])
    for name in (signal.SIGTERM, signal.SIGHUP):  # whoever started us may ignore signals, as `nohup` and `&` do
        signal.signal(name, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with orderly_ends():
            if len(args) == 2:
                write_for_ever(path, number)
            write_once(path, number, int(args[2]), int(args[3]), args[4] == "exchange")
        return 0
    except Terminated as end:
        return 128 + end.signal
    except KeyboardInterrupt:
        return 128 + signal.SIGINT


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        sys.exit(be_child(sys.argv[2:]))
    main()
