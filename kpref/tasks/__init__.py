"""Tasks: what networks learn, each a function from a number of trials and a seed to `kpref.Trials`.

Every task is a file of its own, whose docstrings say what the channels are and whose numbers the options have. `TASKS`
holds them by name, with the loss that each is meant for; `get` finds one. Trials of unequal length say so by `lengths`,
steps that are not scored by `mask`, and groups, which colour figures and set sub-tasks apart, by `conditions`.
`with_state_noise` adds a realisation of noise in the states of a map.

The same seed gives the same draws with the same version of NumPy, on any machine; where sines or products of matrices
follow, they are equal to rounding. More trials are other trials: the first of 20 need not be the first of 10.

>>> from kpref import tasks
>>> tasks.memory_pro(5, seed=1)
Trials(5 trials of 90 steps: 3 inputs, 3 targets)
>>> task = tasks.get("delayed_match")
>>> task.trials(8, seed=1, delay=50).conditions.tolist().count("A-B")
2
"""

from kpref.tasks.catalogue import TASKS, Task, get
from kpref.tasks.context_integration import context_integration
from kpref.tasks.delayed_match import delayed_match
from kpref.tasks.delayed_response import delay_anti, delay_pro, memory_anti, memory_pro, mixed
from kpref.tasks.digits import digits
from kpref.tasks.flip_flop import flip_flop, flip_flop_anti
from kpref.tasks.line_attractor import line_attractor
from kpref.tasks.low_rank_forecast import low_rank_forecast
from kpref.tasks.neurogym import from_neurogym
from kpref.tasks.perceptual_decision import perceptual_decision
from kpref.tasks.sampling import with_state_noise
from kpref.tasks.sine_generation import sine_generation
from kpref.tasks.teachers import (
    Teacher,
    fixed_point_teacher,
    linear_teacher,
    tanh_teacher,
    teacher_fixed_points,
    teacher_linear,
    teacher_tanh,
)

__all__ = [
    "TASKS",
    "Task",
    "Teacher",
    "context_integration",
    "delay_anti",
    "delay_pro",
    "delayed_match",
    "digits",
    "fixed_point_teacher",
    "flip_flop",
    "flip_flop_anti",
    "from_neurogym",
    "get",
    "line_attractor",
    "linear_teacher",
    "low_rank_forecast",
    "memory_anti",
    "memory_pro",
    "mixed",
    "perceptual_decision",
    "sine_generation",
    "tanh_teacher",
    "teacher_fixed_points",
    "teacher_linear",
    "teacher_tanh",
    "with_state_noise",
]
