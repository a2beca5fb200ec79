"""The command line: ``kpref analyze``, ``kpref bench``, ``kpref verify``, ``kpref golden``, ``kpref --version``.

A subcommand is a module with ``add_arguments(parser)`` and ``run(args) -> int``. It is imported when it is asked for
and not before, so that ``kpref --help`` answers at once.
"""

import argparse
import importlib
import os
import sys
import traceback
from collections.abc import Sequence

from kpref._version import __version__

COMMANDS = {
    "analyze": "write a report on what gradient descent does to the states of a trained network",
    "bench": "time the operators against the speed of the machine's matrix products, JAX and PyTorch",
    "verify": "certify somebody else's operators, and say where they are wrong",
    "golden": "write a problem for a backend in another language, and judge its answers",
}
"""Subcommand, and its line in the help."""

MODULES = {"analyze": "analysis", "verify": "verify_command", "golden": "golden_command"}
"""Subcommands whose module is not called as they are."""

EXIT_ERROR = 2
EXIT_BROKEN_PIPE = 128 + 13  # what a shell reports for a program ended by SIGPIPE
EXIT_INTERRUPT = 128 + 2  # and by SIGINT


def build_parser(command: str | None) -> argparse.ArgumentParser:
    """Build the parser, with the arguments of one subcommand.

    Parameters
    ----------
    command : str or None
        The subcommand whose module is imported for its arguments; None, or a name that is not a subcommand, for none.

    Returns
    -------
    argparse.ArgumentParser
        The parser. For `command` it also sets ``run``, the function that takes the parsed arguments (`main` adds to
        them the command line itself as ``argv``).
    """
    parser = argparse.ArgumentParser(prog="kpref", description="Reference operators of the K-P flow.")
    parser.add_argument("--version", action="version", version=f"kpref {__version__}")
    subparsers = parser.add_subparsers(metavar="COMMAND", required=True)
    for name, summary in COMMANDS.items():
        subparser = subparsers.add_parser(name, help=summary, description=summary[0].upper() + summary[1:] + ".")
        if name == command:
            module = importlib.import_module(f"kpref.{MODULES.get(name, name)}")
            module.add_arguments(subparser)
            subparser.set_defaults(run=module.run)
    return parser


def describe(error: Exception) -> str:
    """Put an error into one line.

    Parameters
    ----------
    error : Exception
        What was raised.

    Returns
    -------
    str
        ``reason: file`` for an error of the operating system that names a file, else the message with its line breaks
        taken out, or the name of the exception where it has no message.
    """
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        message = f"{error.strerror}: {error.filename}"
    else:
        message = str(error)
    return " ".join(message.split()) or type(error).__name__


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Errors that name a user's mistake or a limit of the machine end as one line ``kpref: error: ...`` on standard error
    and exit status 2; with ``KPREF_DEBUG=1`` in the environment their traceback comes first. Anything else is a defect
    of kpref and is not caught.

    Parameters
    ----------
    argv : sequence of str, optional
        The arguments; by default those of the process.

    Returns
    -------
    int
        The exit status: 0, or what the subcommand returned; 2 after an error; 130 after an interrupt.
    """
    argv = sys.argv[1:] if argv is None else list(argv)
    # The options of `kpref` itself take no values, so the first word that is not an option is the subcommand.
    command = next((word for word in argv if not word.startswith("-")), None)
    try:
        args = build_parser(command).parse_args(argv)
        args.argv = argv
        status = int(args.run(args))
        sys.stdout.flush()
        return status
    except BrokenPipeError:
        # The reader of our output went away, as `| head` does. Python would complain once more when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_BROKEN_PIPE
    except (ValueError, TypeError, OSError, MemoryError) as error:
        if os.environ.get("KPREF_DEBUG") == "1":
            traceback.print_exc()
        print(f"kpref: error: {describe(error)}", file=sys.stderr)
        return EXIT_ERROR
    except KeyboardInterrupt:
        print("kpref: interrupted", file=sys.stderr)
        return EXIT_INTERRUPT


if __name__ == "__main__":
    sys.exit(main())
