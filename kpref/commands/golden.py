"""``kpref golden export`` and ``kpref golden check``: verification through files, for backends in any language.

`kpref.oracle.golden_files` documents the format. ``check`` ends with exit status 0, 1 or 2 as ``kpref verify`` does.
"""

from __future__ import annotations

import argparse

from kpref._arguments import path
from kpref._terminal import say
from kpref.commands.verify import add_output_arguments, add_problem_arguments, make_flow, require_outputs, write_results
from kpref.oracle.arithmetic import ARITHMETICS
from kpref.oracle.golden_files import check_golden, export_golden

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``kpref golden``."""
    actions = parser.add_subparsers(metavar="ACTION", dest="action", required=True)
    text = "write a problem and probes to a new folder"
    export = actions.add_parser(
        "export", help=text, description=f"{text.capitalize()}, whose README.md tells the rest."
    )
    export.add_argument("folder", type=path, metavar="DIR", help="a new or an empty folder")
    add_problem_arguments(export)
    export.add_argument(
        "--arithmetic", choices=tuple(ARITHMETICS), default="float64", help="of the backend (default: %(default)s)"
    )
    text = "judge the answers in a folder"
    check = actions.add_parser("check", help=text, description=f"{text.capitalize()}: exit status 0, 1 or 2.")
    check.add_argument("folder", type=path, metavar="DIR", help="as `kpref golden export` made it, with answers in it")
    add_output_arguments(check)


def run(args: argparse.Namespace) -> int:
    """Export or check.

    Returns 0 after an export, the report's exit status after a check.
    Raises ValueError or OSError for a problem that cannot be made, or files that cannot be read or written.
    """
    if args.action == "export":
        export_golden(args.folder, make_flow(args), args.arithmetic, args.seed)
        say(f"problem and probes: {args.folder}; {args.folder / 'README.md'} says how to answer")
        return 0
    require_outputs(args)
    report = check_golden(args.folder)
    say(str(report))
    write_results(report, args)
    return report.exit_status
