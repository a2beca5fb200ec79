"""The command line: exit statuses, one-line errors, and what is imported when."""

import os
import signal
import subprocess
import sys
import zipfile

import pytest

import kpref.commands.bench
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
    print([name for name in COMMANDS if f"kpref.commands.{name}" in sys.modules])
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
        (OSError(28, "No space left on device", "a\nb\udcff"), r"No space left on device: a b\udcff"),
        (ImportError("PyTorch is not installed"), "PyTorch is not installed"),
        (RuntimeError("no convergence after 9 iterations"), "no convergence after 9 iterations"),
        (NotImplementedError("Cannot copy out of meta tensor"), "Cannot copy out of meta tensor"),
        (RecursionError("maximum depth"), "the input is nested too deeply (maximum depth)"),
        (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "no"), "'utf-8' codec can't decode byte 0xff in position 0: no"),
        (zipfile.BadZipFile("bad magic number"), "bad magic number"),
        (OverflowError(34, "Numerical result out of range"), "(34, 'Numerical result out of range')"),
        (ValueError("\x1b[1;31mred\x1b[0m and \x1b]8;;http://a\x07linked\x07"), "red and linked\\x07"),
        (ValueError("what it is\n\nAdvice of another library\nthat is long"), "what it is"),
        (ValueError("x" * 9000), "x" * 1197 + "..."),
    ],
)
def test_expected_errors_are_one_line(error, message, monkeypatch, capsys):
    monkeypatch.delenv("KPREF_DEBUG", raising=False)
    monkeypatch.setattr(kpref.commands.bench, "run", raises(error))
    assert cli.main(["bench"]) == 2
    output = capsys.readouterr()
    assert output.err == f"kpref: error: {message}\n"
    assert output.out == ""


def test_debug_shows_the_traceback(monkeypatch, capsys):
    monkeypatch.setenv("KPREF_DEBUG", "1")
    monkeypatch.setattr(kpref.commands.bench, "run", raises(ValueError("no")))
    assert cli.main(["bench"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("Traceback")
    assert lines[-1] == "kpref: error: no"


@pytest.mark.parametrize(
    "error", [KeyError("defect"), AssertionError("defect"), AttributeError("defect"), IndexError("defect")]
)
def test_a_defect_of_kpref_is_said_to_be_one(error, monkeypatch, capsys):
    monkeypatch.delenv("KPREF_DEBUG", raising=False)
    monkeypatch.setattr(kpref.commands.bench, "run", raises(error))
    assert cli.main(["bench"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"kpref: error: this is a defect of kpref ({type(error).__name__}: ")
    assert "please report it" in line


def test_interrupt(monkeypatch, capsys):
    monkeypatch.setattr(kpref.commands.bench, "run", raises(KeyboardInterrupt()))
    assert cli.main(["bench"]) == 130
    assert capsys.readouterr().err == "kpref: interrupted\n"


def test_status_of_the_subcommand_is_returned(monkeypatch):
    monkeypatch.setattr(kpref.commands.bench, "run", lambda args: 7)
    assert cli.main(["bench"]) == 7


@pytest.mark.skipif(os.name != "posix", reason="pipes of this kind are POSIX")
def test_reader_that_goes_away():
    """As in `kpref bench | head -0`: no traceback, not even the one that Python prints while it exits."""
    code = """
import sys
import kpref.commands.bench
from kpref.cli import main
kpref.commands.bench.run = lambda args: print("x" * 100_000) or 0
sys.exit(main(["bench"]))
"""
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([sys.executable, "-c", code], stdout=writer, stderr=subprocess.PIPE, text=True, timeout=60)
    os.close(writer)
    assert done.stderr == ""
    assert done.returncode == 141


# Streams, signals and locales: in processes of their own, with something quick in place of `kpref bench`

PROLOGUE = """
import os, signal, sys, types
from kpref.cli import main
"""


def shell(line, body, before="", **environment):
    """Run the command in a shell, with what the subcommand does given as Python."""
    module = "types.SimpleNamespace(add_arguments=lambda parser: None, run=run)"
    call = f"sys.modules['kpref.commands.bench'] = {module}\nsys.exit(main(['bench']))"
    code = f"{PROLOGUE}\n{before}\ndef run(args):\n    {body}\n{call}"
    clean = {name: value for name, value in os.environ.items() if name != "KPREF_DEBUG"}
    return subprocess.run(
        ["sh", "-c", line.format('"$PYTHON" -c "$CODE"')],
        env=clean | {"PYTHON": sys.executable, "CODE": code} | environment,
        capture_output=True,
        timeout=60,
    )


posix = pytest.mark.skipif(os.name != "posix", reason="needs a POSIX shell")


@posix
@pytest.mark.parametrize("streams", [">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams(streams):
    """What is printed goes nowhere, into no file that is opened meanwhile, and the exit status is the command's."""
    body = "assert open(os.devnull).fileno() > 2; print('word'); print('word', file=sys.stderr); return 7"
    done = shell("{} " + streams, body)
    assert done.returncode == 7
    assert b"Traceback" not in done.stderr
    assert shell("{} " + streams, "raise ValueError('no')").returncode == 2


@posix
@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_full_output(unbuffered):
    body = "from kpref._terminal import say; say('word'); return 0"
    done = shell("{} > /dev/full", body, PYTHONUNBUFFERED=unbuffered)
    assert done.returncode == 2
    assert done.stderr == b"kpref: error: No space left on device: standard output\n"
    assert shell("{} 2> /dev/full", "raise ValueError('no')").returncode == 2


@posix
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_full_output_of_help(unbuffered):
    command = f"'{sys.executable}' -m kpref --help > /dev/full"
    environment = os.environ | {"PYTHONUNBUFFERED": unbuffered}
    done = subprocess.run(["sh", "-c", command], env=environment, capture_output=True, timeout=60)
    assert done.returncode == 2
    assert done.stderr == b"kpref: error: No space left on device: standard output\n"


@posix
@pytest.mark.parametrize("locale", [{"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C", "PYTHONUTF8": "0"}])
def test_any_path_can_be_printed(locale):
    body = "print('tau \\u03c4 \\udcff'); raise ValueError('tau \\u03c4 \\udcff')"
    done = shell("{}", body, **locale)
    assert done.returncode == 2
    assert done.stdout.startswith(b"tau ")
    assert done.stderr.startswith(b"kpref: error: tau ")
    assert b"\\udcff" in done.stderr


@posix
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_signals_end_in_order(number):
    body = f"\n    try: os.kill(os.getpid(), {int(number)}); input()\n    finally: print('cleaned up')"
    # Whoever started us may ignore signals, as `nohup` and `&` do.
    restored = "signal.signal(signal.SIGHUP, signal.SIG_DFL); signal.signal(signal.SIGINT, signal.default_int_handler)"
    done = shell("{} < /dev/null", body, before=restored)
    assert done.returncode == 128 + number
    assert done.stdout == b"cleaned up\n"
    assert done.stderr.count(b"\n") == 1


@posix
def test_what_nohup_ignores_stays_ignored():
    body = "os.kill(os.getpid(), signal.SIGHUP); return 7"
    assert shell("trap '' HUP; {}", body).returncode == 7


def test_handlers_of_the_caller_are_restored(monkeypatch):
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(kpref.commands.bench, "run", lambda args: 0)
    assert cli.main(["bench"]) == 0
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize("module", ["kpref", "kpref.cli"])
def test_the_package_can_be_run(module):
    done = subprocess.run([sys.executable, "-m", module, "--version"], text=True, capture_output=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"kpref {__version__}\n", "")


def test_warnings_of_other_packages_are_not_passed_on(monkeypatch, capsys):
    def run(args):
        import logging
        import warnings

        warnings.warn("overflow", RuntimeWarning, stacklevel=1)
        logging.getLogger("somebody").warning("the cache is being built")
        return 0

    monkeypatch.setattr(kpref.commands.bench, "run", run)
    assert cli.main(["bench"]) == 0
    assert capsys.readouterr().err == ""
