"""The tasks that kpref knows, each entered by its own file: what a trainer or the command line asks of one."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from kpref._validate import near, short
from kpref.trials import Trials

__all__ = ["TASKS", "Task", "get", "task"]


@dataclass(frozen=True)
class Task:
    """A task: a function that draws trials, and what is to be known about them.

    Attributes
    ----------
    name : str
    function : callable
        ``function(n_trials, *, seed, **options)``, which returns `kpref.Trials`; its docstring says what the trials
        are, and what the options.
    inputs : tuple of str
        What the input channels are, in their order; of the trials without options, as all that follows.
    outputs : tuple of str
        What the channels of the targets are; where trials have labels instead, the classes.
    loss : {"mse", "cross_entropy"}
        The loss that the task is meant for, as `kpref.Flow.gradient_flow` takes it.
    at : {"all", "last"}
        Whether it is taken over all steps, of which the trials may mask some, or over the last of each trial.
    sources : tuple of str
        Who described the task, and whose numbers its options have.
    held_out : int
        Trials that are set apart from those to train on, drawn with ``part="test"``; 0 where every trial is new.
    """

    name: str
    function: Callable[..., Trials]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    loss: str
    at: str
    sources: tuple[str, ...]
    held_out: int = 0

    @property
    def summary(self) -> str:
        """One line on what the network has to do."""
        return (inspect.getdoc(self.function) or "").partition("\n")[0]

    @property
    def options(self) -> dict[str, Any]:
        """The options, and their values where none are given."""
        known = inspect.signature(self.function).parameters.values()
        return {one.name: one.default for one in known if one.name not in ("n_trials", "seed")}

    def trials(self, n_trials: int, seed: int = 0, **options: Any) -> Trials:
        """Draw trials.

        Parameters
        ----------
        n_trials : int
        seed : int
            The same seed gives the same trials, another one others of the same task.
        **options
            As `function` takes them.

        Returns
        -------
        Trials

        Raises
        ------
        TypeError
            If there is no such option, or something is of another type than it takes.
        ValueError
            If a number is out of range.
        """
        known = self.options
        unknown = [name for name in options if name not in known]
        if unknown:
            raise TypeError(
                f"the task {self.name} has no option {unknown[0]!r}{near(unknown[0], known)}; "
                f"it takes {', '.join(known)}"
            )
        return self.function(n_trials, seed=seed, **options)


TASKS: dict[str, Task] = {}
"""The tasks by their names."""


def task(
    *,
    inputs: Sequence[str],
    outputs: Sequence[str],
    sources: Sequence[str],
    loss: str = "mse",
    at: str = "all",
    held_out: int = 0,
) -> Callable[[Callable[..., Trials]], Callable[..., Trials]]:
    """Enter a function among the tasks, under its own name; for what the arguments are see `Task`."""

    def enter(function: Callable[..., Trials]) -> Callable[..., Trials]:
        name = function.__name__
        TASKS[name] = Task(name, function, tuple(inputs), tuple(outputs), loss, at, tuple(sources), held_out)
        return function

    return enter


def get(name: str) -> Task:
    """The task of a name.

    Parameters
    ----------
    name : str
        One of `TASKS`.

    Returns
    -------
    Task

    Raises
    ------
    ValueError
        If there is none of that name.

    Examples
    --------
    >>> from kpref import tasks
    >>> tasks.get("flip_flop").trials(5, seed=1)
    Trials(5 trials of 90 steps: 3 inputs, 3 targets)
    """
    if not isinstance(name, str) or name not in TASKS:
        raise ValueError(f"there is no task {short(name)}{near(name, TASKS)}; the tasks are {', '.join(TASKS)}")
    return TASKS[name]
