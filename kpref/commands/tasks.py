"""``kpref tasks``: the tasks that networks learn; ``draw`` and ``save`` take trials of one."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from kpref._archives import replacing
from kpref._arguments import path, positive_integer, require_writable, seed
from kpref._terminal import say

__all__ = ["add_arguments", "run"]

_FORMATS = (".png", ".svg", ".pdf")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``kpref tasks``."""
    parser.set_defaults(action=None)
    actions = parser.add_subparsers(metavar="ACTION", title="without an action, the tasks are listed; actions")
    draw = actions.add_parser("draw", help="draw four trials", description="Draw four trials of a task.")
    save = actions.add_parser("save", help="write trials to an npz file", description="Write trials of a task.")
    for action, name, what, number in (
        (draw, "draw", "FILE.png", 40),
        (save, "save", "FILE.npz", 100),
    ):
        action.set_defaults(action=name)
        action.add_argument("task", metavar="TASK", help="its name, as in the list")
        action.add_argument("-o", "--out", metavar=what, type=path, required=True, help="the file to write")
        action.add_argument(
            "--trials", type=positive_integer, default=number, metavar="B", help="how many (default %(default)s)"
        )
        action.add_argument("--seed", type=seed, default=0, help="of random numbers (default %(default)s)")
        action.add_argument(
            "--set",
            type=_option,
            action="append",
            default=[],
            metavar="OPTION=VALUE",
            help="an option of the task, as noise=0 or delay=[10,50]; may be given several times",
        )


def run(args: argparse.Namespace) -> int:
    """List the tasks, or draw or save trials of one."""
    from kpref import tasks

    if args.action is None:
        say(_table([(task.name, _channels(task), task.summary) for task in tasks.TASKS.values()]))
        return 0
    task = tasks.get(args.task)
    if args.action == "draw" and args.out.suffix.lower() not in _FORMATS:
        raise ValueError(f"a picture is a file named {', '.join(f'*{end}' for end in _FORMATS)}; got {args.out}")
    if args.action == "save" and args.out.suffix.lower() != ".npz":
        raise ValueError(f"trials are a file named *.npz; got {args.out}")
    require_writable(args.out)
    trials = task.trials(args.trials, args.seed, **_options(args.set))
    if args.action == "save":
        trials.save(args.out)
    else:
        _draw(task, trials, args.out)
    say(f"{trials.in_words()} of {task.name}: {args.out}")
    return 0


def _draw(task: Any, trials: Any, file: Path) -> None:
    from kpref.tasks.drawing import draw_trials  # which brings matplotlib

    figure = draw_trials(trials, task.inputs, task.outputs, task.at, f"{task.name}: {task.summary}")
    with replacing(file) as stream:
        figure.savefig(stream, format=file.suffix[1:].lower(), metadata={} if file.suffix != ".svg" else {"Date": None})


def _channels(task: Any) -> str:
    return f"{_named(task.inputs)} -> {_named(task.outputs)}"


def _named(names: tuple[str, ...]) -> str:
    return ", ".join(names) if len(names) <= 4 else f"{names[0]}, ..., {names[-1]} ({len(names)})"


def _table(rows: list[tuple[str, str, str]]) -> str:
    """Names beside what the tasks ask for, and below it their channels."""
    width = max(len(name) for name, _, _ in rows)
    return "\n".join(f"{name:<{width}}  {summary}\n{'':<{width}}  {channels}" for name, channels, summary in rows)


def _options(given: list[tuple[str, Any]]) -> dict[str, Any]:
    options: dict[str, Any] = {}
    for name, value in given:
        if name in options:
            raise ValueError(f"--set says twice what {name} is: {options[name]!r} and {value!r}")
        options[name] = value
    return options


def _option(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not (name.isidentifier() and equals and value):
        raise argparse.ArgumentTypeError(f"expected OPTION=VALUE, as in noise=0; got {text!r}")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value  # a word
