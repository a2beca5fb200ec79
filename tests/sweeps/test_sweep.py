"""A sweep: what is missing is run and committed, what fails stops nobody, and the table is the same after any kills."""

import csv
import os
import shutil
import signal

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from kpref import cli
from kpref._locks import LOCK, held
from kpref.sweeps import read_grid, run, sweep
from kpref.sweeps.cell_process import CellProcess
from kpref.sweeps.cell_settings import completed

PLAIN = """
metrics = ["trace_K", "trace_NTK"]
[grid]
gain = [0.5, 1]
seed = [0, 1, 2]
[fixed]
task = "flip_flop"
units = 3
steps = 2
"""


class Instant:
    """In place of a process: an outcome that follows from the settings, some looks after its start."""

    started: list = []
    ends_after = None

    def __init__(self, settings, metrics, seconds, memory, alone):
        if Instant.ends_after is not None and len(Instant.started) == Instant.ends_after:
            raise KeyboardInterrupt
        Instant.started.append(settings)
        self.settings, self.metrics, self.looks = settings, metrics, settings["seed"]

    def outcome(self):
        self.looks -= 1
        if self.looks >= 0:
            return None
        if self.settings["gain"] == 1.0 and self.settings["seed"] == 1:
            return {"failed": "raised", "error": 'it "raised", so'}
        number = self.settings["gain"] / 3 + self.settings["seed"]
        return {"metrics": {name: [number, None] for name in self.metrics}}

    def stop(self):
        pass


@pytest.fixture
def grid(tmp_path, monkeypatch):
    monkeypatch.setattr(run, "CellProcess", Instant)
    monkeypatch.setattr(run, "_LOOK", 0)
    Instant.started, Instant.ends_after = [], None
    (tmp_path / "grid.toml").write_text(PLAIN)
    return read_grid(tmp_path / "grid.toml")


def changed(folder, old, new):
    (folder / "changed.toml").write_text(PLAIN.replace(old, new))
    return read_grid(folder / "changed.toml")


def test_the_table_has_a_line_for_each_cell(grid, tmp_path):
    found = sweep(grid, tmp_path / "out", workers=2)
    assert (found.cells, found.failed) == (6, 1)
    with open(found.table, newline="") as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["gain", "seed", "trace_K", "trace_NTK", "trace_NTK_error", "failed", "error"]
    assert rows[1] == ["0.5", "0", repr(0.5 / 3), repr(0.5 / 3), "", "", ""]
    assert rows[5] == ["1.0", "1", "", "", "", "raised", 'it "raised", so']
    assert [row[:2] for row in rows[1:]] == [[gain, seed] for gain in ("0.5", "1.0") for seed in "012"]


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(0, 3), max_size=4), st.integers(1, 4))
def test_any_number_of_ends_leaves_the_same_table(tmp_path_factory, ends, workers):
    folder = tmp_path_factory.mktemp("sweep")
    (folder / "grid.toml").write_text(PLAIN)
    grid = read_grid(folder / "grid.toml")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "CellProcess", Instant)
        patch.setattr(run, "_LOOK", 0)
        Instant.started, Instant.ends_after = [], None
        whole = sweep(grid, folder / "whole").table.read_bytes()
        for number in ends:
            Instant.started, Instant.ends_after = [], number
            try:
                sweep(grid, folder / "ended", workers=workers)
            except KeyboardInterrupt:
                pass
        Instant.started, Instant.ends_after = [], None
        assert sweep(grid, folder / "ended", workers=workers).table.read_bytes() == whole
    shutil.rmtree(folder)


def test_only_what_is_missing_is_run(grid, tmp_path):
    out = tmp_path / "out"
    table = sweep(grid, out).table
    content = table.read_bytes()
    assert len(Instant.started) == 6
    sweep(grid, out)
    assert len(Instant.started) == 6
    sweep(grid, out, retry_failed=True)
    assert [(cell["gain"], cell["seed"]) for cell in Instant.started[6:]] == [(1.0, 1)]
    damaged = sorted((out / "cells").glob("*/*.json"))[2]
    damaged.write_text(damaged.read_text()[:-20])
    sweep(grid, out)
    assert len(Instant.started) == 8
    assert table.read_bytes() == content


def test_a_grid_may_grow(grid, tmp_path):
    sweep(grid, tmp_path / "out")
    more = changed(tmp_path, "gain = [0.5, 1]", "gain = [2, 1, 0.5]")
    assert sweep(more, tmp_path / "out").cells == 9
    assert [cell["gain"] for cell in Instant.started[6:]] == [2.0] * 3
    with pytest.raises(ValueError, match=r"has another gain: 2.0 there, \[0.5, 1.0\] here; a grid may only add"):
        sweep(grid, tmp_path / "out")


@pytest.mark.parametrize(
    "old, new, sentence",
    [
        ("gain = [0.5, 1]", "gain = [0.5]", r"another gain: 1.0 there, \[0.5\] here"),
        ("units = 3", "units = 4", r"another units: 3 there, \[4\] here"),
        ("units = 3", "units = 3\nclip = 2", r"another clip: none there, \[2.0\] here"),
        ('"trace_K", ', "", "another list of metrics"),
    ],
)
def test_another_sweep_is_refused_by_name(grid, tmp_path, old, new, sentence):
    sweep(grid, tmp_path / "out")
    with pytest.raises(ValueError, match=sentence):
        sweep(changed(tmp_path, old, new), tmp_path / "out")
    assert len(Instant.started) == 6


def test_limits_may_change(grid, tmp_path):
    sweep(grid, tmp_path / "out")
    sweep(changed(tmp_path, "steps = 2", "steps = 2\n[limits]\nseconds = 3"), tmp_path / "out")
    assert len(Instant.started) == 6


def test_two_sweeps_in_one_folder_and_other_folders(grid, tmp_path):
    sweep(grid, tmp_path / "out")
    lock = held(tmp_path / "out" / LOCK, "sweeps")
    with pytest.raises(OSError, match="another process sweeps in this folder"):
        sweep(grid, tmp_path / "out")
    os.close(lock)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("years of work")
    with pytest.raises(ValueError, match="holds something else than a sweep"):
        sweep(grid, tmp_path / "other")
    (tmp_path / "out" / "sweep.json").write_text("[]")
    with pytest.raises(ValueError, match="is no record of a sweep"):
        sweep(grid, tmp_path / "out")


def test_the_command(grid, tmp_path, capsys):
    words = ["sweep", str(tmp_path / "grid.toml"), "-o", str(tmp_path / "out")]
    assert cli.main([*words, "--list"]) == 0
    assert capsys.readouterr().out.count("missing") == 6
    assert not (tmp_path / "out").exists()
    assert cli.main(words) == 1  # as one failed
    out, err = capsys.readouterr()
    assert out == f"6 cells, 1 of them failed: {tmp_path / 'out' / 'table.csv'}\n"
    assert "6 of 6 cells, 1 failed" in err
    assert cli.main([*words, "--list"]) == 0
    assert '     5  gain=1.0, seed=1  raised: it "raised", so\n' in capsys.readouterr().out
    assert cli.main([*words, "--quiet"]) == 1
    assert capsys.readouterr() == ("", "")


def test_progress_tells_the_time_that_is_left():
    assert str(run.Tally(3, 0, 10, 65.0)) == "3 of 10 cells, 1 min 05 s left"
    assert str(run.Tally(3, 2, 1000, 7320.0)) == "5 of 1,000 cells, 2 failed, 2 h 02 min left"
    assert str(run.Tally(0, 0, 10, None)) == "0 of 10 cells"


def test_processes_fail_alone(tmp_path):
    """One cell is well, one asks for a thousand times the memory that it may have."""
    text = PLAIN.replace("seed = [0, 1, 2]", "fresh_trials = [2, 100_000_000]").replace("[0.5, 1]", "[1]")
    (tmp_path / "grid.toml").write_text(text + "[limits]\nmemory = 1.0\n")
    found = sweep(read_grid(tmp_path / "grid.toml"), tmp_path / "out", workers=2)
    rows = list(csv.DictReader(found.table.read_text().splitlines()))
    assert (rows[0]["failed"], float(rows[0]["trace_K"]) > 0) == ("", True)
    assert rows[1]["failed"] == "memory"
    assert rows[1]["error"] == "it needed more memory than the 1 GiB of [limits]"


def outcome_of(process):
    while (found := process.outcome()) is None:
        pass
    return found


def test_a_process_that_hangs_or_is_killed_is_told_from_one_that_raises():
    hangs = CellProcess({}, (), 0.001, None, True)  # none has begun by then
    assert outcome_of(hangs) == {"failed": "time", "error": "it took longer than the 0.001 s of [limits]"}
    killed = CellProcess({}, (), None, None, True)
    os.kill(killed._process.pid, signal.SIGKILL)
    found = outcome_of(killed)
    assert (found["failed"], found["error"]) == ("crashed", "its process ended by signal SIGKILL")


def test_a_process_does_not_outlive_the_sweep():
    whole = completed({"task": "flip_flop", "units": 3, "steps": 10**9})
    process = CellProcess(whole, ("loss",), None, None, True)
    process._input.close()  # as the system does when a process is killed
    assert outcome_of(process)["error"] == "its process ended with exit status 1"


@pytest.mark.parametrize("alone, threads", [(True, "7"), (False, "1")])
def test_cells_that_run_side_by_side_have_one_thread_each(monkeypatch, alone, threads):
    seen = {}

    def stopped(command, env, **options):
        seen.update(env)
        raise OSError("no process")

    monkeypatch.setenv("KPREF_NUM_THREADS", "7")
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "7")
    monkeypatch.setattr("subprocess.Popen", stopped)
    with pytest.raises(OSError, match="no process"):
        CellProcess({}, (), None, None, alone)
    assert (seen["KPREF_NUM_THREADS"], seen["OPENBLAS_NUM_THREADS"]) == (threads, threads)
