"""Folders of results: whole or not at all, whatever ends the run; nobody else's files are touched."""

import errno
import fcntl
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from kpref._archives import replacing
from kpref._exchange import exchange
from kpref.analysis import folders
from kpref.analysis.folders import INDEX, require_replaceable, sweep, write_folder

NAMES = ["a.png", INDEX]
KILLS = Path(__file__).resolve().parents[1] / "scripts" / "kills.py"


def report(text):
    index = {"program": "kpref", "files": NAMES, "text": text}
    return {"a.png": text.encode(), INDEX: json.dumps(index).encode()}


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def out(tmp_path):
    path = tmp_path / "out"
    write_folder(path, report("old"))
    return path


@pytest.fixture(params=[True, False], ids=["exchange", "renames"])
def either_way(request, monkeypatch):
    """With the exchange of the system, if it has one, and with the two renames that stand in for it."""
    if not request.param:
        monkeypatch.setattr(folders, "exchange", lambda first, second: False)
    return request.param


def test_a_report_is_replaced(out, either_way):
    assert content(out) == report("old")
    write_folder(out, report("new"))
    assert content(out) == report("new")
    assert os.listdir(out.parent) == ["out"]


def test_exchange_takes_files_and_folders(tmp_path):
    (tmp_path / "file").write_text("file")
    (tmp_path / "folder").mkdir()
    if not exchange(tmp_path / "file", tmp_path / "folder"):
        pytest.skip("this file system cannot exchange")
    assert (tmp_path / "folder").read_text() == "file"
    assert (tmp_path / "file").is_dir()
    with pytest.raises(FileNotFoundError, match="nowhere"):
        exchange(tmp_path / "file", tmp_path / "nowhere")


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left on device")])
@pytest.mark.parametrize("call", ["fsync", "rename", "open"])
@pytest.mark.parametrize("moment", range(3))
def test_a_write_that_fails_leaves_the_old_report(out, monkeypatch, either_way, error, call, moment):
    """Any one call fails, whichever it is."""
    real, count = getattr(os, call), iter(range(9))

    def failing(*args, **kwargs):
        if next(count, None) == moment:
            raise error
        return real(*args, **kwargs)

    monkeypatch.setattr(os, call, failing)
    try:
        write_folder(out, report("new"))
    except (KeyboardInterrupt, OSError):
        pass
    monkeypatch.undo()
    assert content(out) in (report("old"), report("new"))
    assert os.listdir(out.parent) == ["out"]


def test_a_full_disk_names_the_file(out, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left on device") as caught:
        write_folder(out, report("new"))
    assert caught.value.filename == str(out / INDEX)
    assert content(out) == report("old")


def test_files_that_appear_during_the_exchange_are_not_lost(out, monkeypatch):
    real = folders.exchange

    def late(first, second):
        (out / "thesis.tex").write_text("years of work")
        return real(first, second)

    (out.parent / "other").mkdir()
    if not real(out, out.parent / "other"):
        pytest.skip("this file system cannot exchange")
    real(out, out.parent / "other")
    monkeypatch.setattr(folders, "exchange", late)
    with pytest.raises(ValueError, match="thesis.tex"):
        write_folder(out, report("new"))
    assert content(out) == report("old") | {"thesis.tex": b"years of work"}


@pytest.mark.parametrize(
    "index",
    [b"", b"[]", b"{}", b"\xff", b"[" * 100_000, b'{"program": "other", "files": ["metrics.json"]}',
     b'{"program": "kpref", "files": [[]]}', b'{"program": "kpref", "files": 3}'],
)  # fmt: skip
def test_what_only_looks_like_a_report_is_not_replaced(tmp_path, index):
    (tmp_path / INDEX).write_bytes(index)
    with pytest.raises(ValueError, match=r"did not write \(metrics.json\)"):
        require_replaceable(tmp_path)


def test_a_name_of_ours_is_not_enough(out):
    """A link or a folder where the index lists a file was put there by somebody else."""
    (out / "a.png").unlink()
    (out / "a.png").symlink_to(out / INDEX)
    with pytest.raises(ValueError, match=r"did not write \(a.png\)"):
        require_replaceable(out)
    (out / "a.png").unlink()
    (out / "a.png").mkdir()
    with pytest.raises(ValueError, match=r"did not write \(a.png\)"):
        require_replaceable(out)


def test_an_index_that_is_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / INDEX)
    with pytest.raises(ValueError, match="did not write"):
        require_replaceable(tmp_path)


def test_a_loop_of_links_is_named(tmp_path):
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(OSError, match="loop"):
        require_replaceable(tmp_path / "loop" / "out")


def test_the_longest_names_have_room_for_a_staging_folder(tmp_path):
    path = require_replaceable(tmp_path / ("n" * 255))
    write_folder(path, report("new"))
    write_folder(path, report("newer"))
    assert content(path) == report("newer")


# What dead runs leave


def staged(out, token, **files):
    """A staging folder as a run leaves it that is killed."""
    staging = out.with_name(f".{out.name}.kpref-{token}")
    for kind, found in files.items():
        (staging / kind).mkdir(parents=True)
        for name, data in found.items():
            (staging / kind / name).write_bytes(data)
    staging.mkdir(exist_ok=True)
    (staging / "lock").touch()
    return staging


@pytest.mark.parametrize(
    "files",
    [
        {},
        {"new": {}},
        {"new": {INDEX: b'{"progr'}},
        {"new": report("half") | {"a.png": b"ha"}},
        {"new": report("old")},
        {"old": report("old")},
    ],
)
def test_what_dead_runs_left_is_swept(out, files):
    staged(out, "0123abcd", **files)
    sweep(out)
    assert os.listdir(out.parent) == ["out"]
    assert content(out) == report("old")


def test_an_empty_staging_folder_is_swept(out):
    out.with_name(".out.kpref-00000000").mkdir()
    sweep(out)
    assert os.listdir(out.parent) == ["out"]


def test_a_report_that_was_taken_away_comes_back(tmp_path):
    out = tmp_path / "out"
    staged(out, "0123abcd", new=report("half"), old=report("old"))
    sweep(out)
    assert content(out) == report("old")
    assert os.listdir(tmp_path) == ["out"]


def test_a_living_run_is_left_alone(out):
    staging = staged(out, "0123abcd", new=report("half"))
    with open(staging / "lock") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        write_folder(out, report("new"))
        assert content(staging / "new") == report("half")
    write_folder(out, report("newer"))
    assert os.listdir(out.parent) == ["out"]


def test_nothing_else_is_swept(out):
    thesis = {"thesis.tex": b"years of work"}
    kept = [
        staged(out, "0123abcd", new=thesis),
        staged(out, "0123abce", new=report("old") | thesis),
        staged(out, "0123abcX", new=report("old")),
        staged(out.with_name("other"), "0123abcd", new=report("old")),
    ]
    out.with_name(".out.kpref-01234567").write_text("a file")
    out.with_name(".out.kpref-01234568").symlink_to(out)
    before = sorted(os.listdir(out.parent))
    write_folder(out, report("new"))
    assert sorted(os.listdir(out.parent)) == before
    assert all((staging / "lock").exists() for staging in kept)
    assert content(kept[0] / "new") == thesis


# Single files


def test_a_file_is_replaced_and_what_dead_processes_left_is_swept(tmp_path):
    file = tmp_path / "file"
    stale, live = tmp_path / ".file.kpref-0123abcd", tmp_path / ".file.kpref-0123abce"
    kept = [live, tmp_path / ".file.kpref-mine", tmp_path / ".other.kpref-0123abcd"]
    for path in (stale, *kept):
        path.write_text("half")
    (tmp_path / ".file.kpref-01234567").mkdir()
    with open(live) as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with replacing(file) as new:
            new.write(b"new")
            assert not file.exists()
    assert file.read_bytes() == b"new"
    assert not stale.exists()
    assert all(path.read_text() == "half" for path in kept)
    assert len(os.listdir(tmp_path)) == 5


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left on device")])
def test_a_file_that_fails_leaves_the_old_one(tmp_path, error):
    file = tmp_path / "file"
    file.write_text("old")

    def write():
        with replacing(file) as new:
            new.write(b"half")
            raise error

    with pytest.raises(type(error)) as caught:
        write()
    assert file.read_text() == "old"
    assert os.listdir(tmp_path) == ["file"]
    if isinstance(error, OSError):
        assert caught.value.filename == str(file)


def test_kills_leave_the_old_or_the_new_report():
    """A sample of ``scripts/kills.py``: the calls that are tried differ in where they stand among all."""
    done = subprocess.run(
        [sys.executable, str(KILLS), "--random", "3", "--every", "41"], text=True, capture_output=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert "3 kills at random moments: the old or the new report stands, the rest is swept" in done.stdout
