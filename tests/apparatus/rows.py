"""Rows of a long table, kept in a file as they are found: a run that was ended goes on where it was.

A file holds one line for each row, after one that says of which code the rows are: those of other code than what runs
now would be no evidence for it, and are refused.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from tqdm import tqdm

__all__ = ["rows"]

#: What rows are made by.
_CODE = ("kpref", "tests/apparatus")
#: Tasks that a process is handed at once.
_TASKS_AT_ONCE = 4

Row = TypeVar("Row")


def rows(
    function: Callable[[Any], Row],
    tasks: Sequence[Any],
    row: type[Row],
    processes: int = 1,
    title: str = "",
    kept: Path | None = None,
) -> list[Row]:
    """Rows of all tasks, in their order, with a progress bar.

    Parameters
    ----------
    function : callable
        Of a task; returns its row. One that other processes find by its name, unless `processes` is 1.
    tasks : sequence
        Of what JSON can hold; no two are the same.
    row : type
        The dataclass of a row, of what JSON can hold.
    processes : int
        More than one are started anew, with one thread each.
    title : str
        Of the table, which the file may hold more than one of.
    kept : Path, optional
        The file. Rows that it holds are not computed again.

    Raises
    ------
    ValueError
        If the file holds rows of other code, or is none of these.
    """
    names = [json.dumps([title, task]) for task in tasks]
    known = {} if kept is None else _read(kept, _code(function))
    left = [(name, task) for name, task in zip(names, tasks, strict=True) if name not in known]
    made = _results(function, [task for _, task in left], processes)
    bar = tqdm(zip(left, made, strict=True), total=len(left), disable=None, desc=title, smoothing=0.02)
    for (name, _), found in bar:
        known[name] = json.loads(json.dumps(vars(found)))  # as it is read from the file
        if kept is not None:
            with kept.open("a") as file:
                file.write(json.dumps([name, known[name]]) + "\n")
    return [row(**known[name]) for name in names]


def _read(path: Path, code: str) -> dict[str, Any]:
    """Rows of a file by their tasks; a new file is begun, and a line that was cut off is lost."""
    if not path.exists():
        path.write_text(json.dumps({"code": code}) + "\n")
    text = path.read_text()
    lines, rest = text.split("\n")[:-1], text.rpartition("\n")[2]
    if rest:
        path.write_text(text[: -len(rest)])
    try:
        first, *others = [json.loads(line) for line in lines]
        theirs = first["code"]
        found = {name: row for name, row in others}
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"rows are kept in a file that this program began; {path} is none: name another") from error
    if theirs != code:
        raise ValueError(f"{path} holds rows of other code ({theirs}; this is {code}): name another file, or remove it")
    return found


def _code(function: Any) -> str:
    """What tells this checkout's code, and that of a function, from any other."""
    root, digest = Path(__file__).parents[2], hashlib.sha256()
    own = Path(inspect.getfile(getattr(function, "func", function))).resolve()
    for path in sorted({own} | {path for folder in _CODE for path in (root / folder).rglob("*.py")}):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


def _results(function: Callable[[Any], Any], tasks: list[Any], processes: int) -> Iterator[Any]:
    if processes == 1:
        yield from map(function, tasks)
        return
    # One thread each; the variables are read when a new process starts its libraries.
    os.environ.update(OPENBLAS_NUM_THREADS="1", OMP_NUM_THREADS="1", KPREF_NUM_THREADS="1")
    with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn")) as pool:
        yield from pool.map(function, tasks, chunksize=_TASKS_AT_ONCE)
