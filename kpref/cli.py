"""The command line: ``kpref analyze``, ``train``, ``sweep``, ``bench``, ``verify``, ``golden``, ``tasks``.

A subcommand is a module of `kpref.commands`. It is imported when it is asked for and not before, so that
``kpref --help`` answers at once.
"""

import argparse
import importlib
import io
import logging
import os
import struct
import sys
import traceback
import warnings
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from difflib import get_close_matches
from typing import Any, NoReturn, TextIO

from kpref._signals import Terminated, orderly_ends
from kpref._terminal import one_line, output_named, say
from kpref._version import __version__

COMMANDS = {
    "analyze": "write a report on what gradient descent does to the states of a trained network",
    "train": "train a network on a task or on trials, in a folder that resumes",
    "sweep": "train and measure networks for all combinations of settings in a grid, each in a process of its own",
    "bench": "time the operators against the speed of the machine's matrix products, JAX and PyTorch",
    "verify": "certify somebody else's operators, and say where they are wrong",
    "golden": "write a problem for a backend in another language, and judge its answers",
    "tasks": "list the tasks that networks learn, draw some trials of one, or save them",
}
"""Subcommand, and its line in the help."""

EXIT_ERROR = 2
EXIT_SIGNAL = 128  # what a shell reports for a program ended by signal n is this + n
SIGINT, SIGPIPE = 2, 13

EXPECTED = (
    *(ValueError, TypeError, OSError, MemoryError, ImportError, ArithmeticError, EOFError),
    RuntimeError,  # a solver did not converge; with its subclasses: not implemented, nested too deeply
    *(zipfile.BadZipFile, zlib.error, struct.error),
)
"""What a user's mistake, a damaged file or a limit of the machine raises; anything else is a defect of kpref."""


class Parser(argparse.ArgumentParser):
    """A parser that takes options by their whole names, and whose errors are one sentence, like all others of kpref."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**{"allow_abbrev": False} | settings)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """See `argparse.ArgumentParser.parse_known_args`; what is not known is an error, with the option nearest it."""
        found, unknown = super().parse_known_args(args, namespace)
        if unknown:
            near = self._near(unknown[0].partition("=")[0])
            self.error(f"unrecognized arguments: {' '.join(unknown)}{f' (did you mean {near}?)' if near else ''}")
        return found, unknown

    def _near(self, option: str) -> str | None:
        options = [name for name in self._option_string_actions if name.startswith("--")]
        begun = [name for name in options if name.startswith(option)] if option.startswith("--") else []
        return next(iter(begun or get_close_matches(option, options, n=1, cutoff=0.75)), None)

    def error(self, message: str) -> NoReturn:
        """See `argparse.ArgumentParser.error`."""
        tell(f"error: {one_line(message)}; `{self.prog} --help` says what is expected")
        self.exit(EXIT_ERROR)

    def _print_message(self, message: str, file: Any = None) -> None:
        """Print help and versions; argparse has it that nobody hears if they cannot be printed."""
        if message:
            say(message.removesuffix("\n"))


def build_parser(command: str | None) -> argparse.ArgumentParser:
    """Build the parser, with the arguments of one subcommand.

    `command`: the subcommand whose module is imported for its arguments; None, or a name that is not a subcommand, for
    none.
    Returns the parser. For `command` it also sets ``run``, the function that takes the parsed arguments (`main` adds to
    them the command line itself as ``argv``).
    """
    parser = Parser(prog="kpref", description="Reference operators of the K-P flow.")
    parser.add_argument("--version", action="version", version=f"kpref {__version__}")
    subparsers = parser.add_subparsers(metavar="COMMAND", required=True)
    for name, summary in COMMANDS.items():
        subparser = subparsers.add_parser(name, help=summary, description=summary[0].upper() + summary[1:] + ".")
        if name == command:
            module = importlib.import_module(f"kpref.commands.{name}")
            module.add_arguments(subparser)
            subparser.set_defaults(run=module.run)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Every error ends as one line ``kpref: error: ...`` on standard error and exit status 2, a defect of kpref itself
    too; with ``KPREF_DEBUG=1`` in the environment its traceback comes first, and warnings of other packages are shown.
    SIGINT, SIGTERM and SIGHUP clean up what was begun and end with the status that a shell gives them.

    Parameters
    ----------
    argv : sequence of str, optional
        The arguments; by default those of the process.

    Returns
    -------
    int
        The exit status: 0, or what the subcommand returned; 2 after an error; 130 after SIGINT, 143 after SIGTERM, 129
        after SIGHUP, 141 if the reader of standard output went away.

    Raises
    ------
    SystemExit
        As `argparse` has it: with 0 for ``--help`` and ``--version``, with 2 for arguments that cannot be understood.
    """
    argv = sys.argv[1:] if argv is None else list(argv)
    with _usable_streams(), orderly_ends(), _without_noise():
        try:
            return _run(argv)
        except BrokenPipeError:
            _give_up(sys.stdout)
            return EXIT_SIGNAL + SIGPIPE
        except Terminated as end:
            tell(f"ended by {end.signal.name}")
            return EXIT_SIGNAL + end.signal
        except KeyboardInterrupt:
            tell("interrupted")
            return EXIT_SIGNAL + SIGINT
        except Exception as error:
            if _debugging():
                traceback.print_exc()
            tell(f"error: {describe(error)}")
            _give_up(sys.stdout)
            return EXIT_ERROR


def describe(error: Exception) -> str:
    """Put an error into one line.

    Parameters
    ----------
    error : Exception
        What was raised.

    Returns
    -------
    str
        ``reason: file`` for an error of the operating system that names a file, unless it is the current folder that
        has gone; that it is a defect, and how to report
        it, for one that nothing from outside should raise; else the message, or the name of the exception where it has
        none.
    """
    if isinstance(error, FileNotFoundError) and not _has_current_folder():
        message = "the current folder has been removed; change to one that exists"
    elif isinstance(error, OSError) and error.strerror and error.filename is not None:
        message = f"{error.strerror}: {os.fsdecode(error.filename)}"
    elif isinstance(error, RecursionError):
        message = f"the input is nested too deeply ({error})"
    elif isinstance(error, EXPECTED):
        message = str(error)
    else:
        message = (
            f"this is a defect of kpref ({type(error).__name__}: {error}); please report it, with what the command "
            "prints if KPREF_DEBUG=1 stands before it"
        )
    return one_line(message) or type(error).__name__


def tell(message: str) -> None:
    """Say on standard error how the command ended; where that is not possible, the exit status must do."""
    with suppress(OSError, ValueError):
        print(f"kpref: {message}", file=sys.stderr, flush=True)
    _give_up(sys.stderr)


def _run(argv: list[str]) -> int:
    # The options of `kpref` itself take no values, so the first word that is not an option is the subcommand.
    command = next((word for word in argv if not word.startswith("-")), None)
    try:
        args = build_parser(command).parse_args(argv)
        args.argv = argv
        return int(args.run(args))
    finally:
        with output_named():
            sys.stdout.flush()  # here, where it can be said that it failed, and not when Python ends


def _has_current_folder() -> bool:
    try:
        os.getcwd()
    except FileNotFoundError:
        return False
    return True


def _debugging() -> bool:
    return os.environ.get("KPREF_DEBUG") == "1"


@contextmanager
def _usable_streams() -> Iterator[None]:
    """Give the process the streams that it was started without, and let no character break them.

    A descriptor 0, 1 or 2 that is closed would go to the next file that is opened, and what a library prints into it.
    """
    if None in (sys.stdin, sys.stdout, sys.stderr):
        for descriptor in range(3):
            try:
                os.fstat(descriptor)
            except OSError:
                os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free: this one
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w")
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # paths of any bytes, in any locale
    yield


@contextmanager
def _without_noise() -> Iterator[None]:
    """Keep warnings and log messages of other packages from a user who can do nothing about them."""
    if _debugging():
        yield
        return
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)


def _give_up(stream: TextIO) -> None:
    """Leave nothing in a stream that cannot be written: at its end Python would complain and change the exit status."""
    try:
        stream.flush()
    except (OSError, ValueError):
        with suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


if __name__ == "__main__":
    sys.exit(main())
