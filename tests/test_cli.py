"""The command line: exit statuses, one-line errors, and what is imported when."""

import os
import subprocess
import sys

import pytest

import kpref.bench
from kpref import cli
from kpref._version import __version__


def raises(error):
    def run(args):
        raise error

    return run


def in_a_process(code, **options):
    return subprocess.run([sys.executable, "-c", code], text=True, capture_output=True, timeout=60, **options)


def test_version(capsys):
    with pytest.raises(SystemExit, match="^0$"):
        cli.main(["--version"])
    assert capsys.readouterr().out == f"kpref {__version__}\n"


@pytest.mark.parametrize("argv", [[], ["dance"], ["--dance"], ["bench", "--dance"], ["bench", "--trials", "0"]])
def test_wrong_usage_exits_with_2(argv, capsys):
    with pytest.raises(SystemExit, match="^2$"):
        cli.main(argv)
    assert "error: " in capsys.readouterr().err


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_every_subcommand_has_help(command, capsys):
    with pytest.raises(SystemExit, match="^0$"):
        cli.main([command, "--help"])
    assert f"usage: kpref {command}" in capsys.readouterr().out


def test_help_imports_no_subcommand():
    code = """
import sys
from kpref.cli import COMMANDS, main
try:
    main(["--help"])
except SystemExit:
    print([name for name in COMMANDS if f"kpref.{name}" in sys.modules])
"""
    done = in_a_process(code)
    assert done.stdout.splitlines()[-1] == "[]", done.stderr
    assert all(f"  {name} " in done.stdout for name in cli.COMMANDS)


@pytest.mark.parametrize(
    "error, message",
    [
        (ValueError("inputs must have 3 axes;\n  got 2"), "inputs must have 3 axes; got 2"),
        (TypeError("trainable must be names"), "trainable must be names"),
        (MemoryError("needs 3 GiB"), "needs 3 GiB"),
        (MemoryError(), "MemoryError"),
        (FileNotFoundError(2, "No such file or directory", "a.npz"), "No such file or directory: a.npz"),
        (OSError("the disk is full"), "the disk is full"),
    ],
)
def test_expected_errors_are_one_line(error, message, monkeypatch, capsys):
    monkeypatch.delenv("KPREF_DEBUG", raising=False)
    monkeypatch.setattr(kpref.bench, "run", raises(error))
    assert cli.main(["bench"]) == 2
    output = capsys.readouterr()
    assert output.err == f"kpref: error: {message}\n"
    assert output.out == ""


def test_debug_shows_the_traceback(monkeypatch, capsys):
    monkeypatch.setenv("KPREF_DEBUG", "1")
    monkeypatch.setattr(kpref.bench, "run", raises(ValueError("no")))
    assert cli.main(["bench"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("Traceback")
    assert lines[-1] == "kpref: error: no"


def test_a_defect_is_not_caught(monkeypatch):
    monkeypatch.setattr(kpref.bench, "run", raises(KeyError("defect")))
    with pytest.raises(KeyError, match="defect"):
        cli.main(["bench"])


def test_interrupt(monkeypatch, capsys):
    monkeypatch.setattr(kpref.bench, "run", raises(KeyboardInterrupt()))
    assert cli.main(["bench"]) == 130
    assert capsys.readouterr().err == "kpref: interrupted\n"


def test_status_of_the_subcommand_is_returned(monkeypatch):
    monkeypatch.setattr(kpref.bench, "run", lambda args: 7)
    assert cli.main(["bench"]) == 7


@pytest.mark.skipif(os.name != "posix", reason="pipes of this kind are POSIX")
def test_reader_that_goes_away():
    """As in `kpref bench | head -0`: no traceback, not even the one that Python prints while it exits."""
    code = """
import sys
import kpref.bench
from kpref.cli import main
kpref.bench.run = lambda args: print("x" * 100_000) or 0
sys.exit(main(["bench"]))
"""
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([sys.executable, "-c", code], stdout=writer, stderr=subprocess.PIPE, text=True, timeout=60)
    os.close(writer)
    assert done.stderr == ""
    assert done.returncode == 141
