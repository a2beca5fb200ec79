"""Random programs with random numbers, for tests of the interpreter: any legal sequence of operations may come up."""

import numpy as np

from kpref.program import Builder, View
from kpref.step_form import Entry, StepForm, Variable, allot


def random_form(seed, rows=None, trials=None):
    rng = np.random.default_rng(seed)
    rows, trials = rows or int(rng.integers(1, 7)), trials or int(rng.integers(1, 6))
    build = Builder()
    states = [build.state(int(rng.integers(1, 5))) for _ in range(rng.integers(1, 4))]
    views = [old for old, _ in states] + [new for _, new in states]
    views += [build.register(int(rng.integers(1, 7))) for _ in range(rng.integers(1, 4))]
    weights, variables, names = {}, {}, iter(range(1000))
    for _ in range(rng.integers(3, 14)):
        try:
            _add(build, rng, views, [new for _, new in states], weights, variables, f"op{next(names)}")
        except ValueError:  # an operation that could not be reversed: the builder says so
            continue
    # What the new state is made of at last, so that something always arrives.
    for old, new in states:
        try:
            build.scale(new, old, f"keep{new.register}")
        except ValueError:
            continue
    return _numbered(rng, build.program(), rows, trials, weights, variables)


def _add(build, rng, views, new, weights, variables, name):
    out, source = (_piece(rng, views[int(rng.integers(len(views)))]) for _ in range(2))
    kind = rng.choice(["scale", "product", "unit", "gather", "spread"])
    trained = bool(rng.random() < 0.7)
    if kind == "product" and any(out.register == view.register for view in new):
        raise ValueError("products write to scratch")
    if kind in ("scale", "unit"):
        width = min(out.width, source.width)
        out, source = View(out.register, out.start, width), View(source.register, source.start, width)
    if kind == "scale":
        build.scale(out, source, name)
        return
    if kind in ("gather", "spread"):
        getattr(build, kind)(out, source)
        return
    without_source = trained and rng.random() < 0.3
    width = int(rng.integers(1, 4)) if without_source else source.width
    getattr(build, kind)(out, None if without_source else source, name, f"{name}m" if trained else None)
    weights[name] = (out.width, width) if kind == "product" else (1, out.width)
    if trained:
        variables[f"{name}m"] = weights[name][1]


def _piece(rng, view):
    start = int(rng.integers(view.width))
    return View(view.register, start, int(rng.integers(1, view.width - start + 1)))


def _numbered(rng, program, rows, trials, weights, variables):
    shapes = {}
    for op in program.operations:
        if op.kind == "unit":
            shapes[op.name] = (1, 1, op.out.width)
        elif op.kind == "scale":
            shapes[op.name] = (*((rows, trials), (rows, 1), (1, trials), (1, 1))[rng.integers(4)], op.out.width)
    places, total = allot(shapes, rows, trials)
    numbers = rng.normal(size=total) * 0.7
    values = {name: rng.normal(size=shape) * 0.5 for name, shape in weights.items()}
    known, column = {}, 0
    for name, width in variables.items():
        known[name] = Variable(False, column, width)
        column += width
    for op in program.operations:
        if op.kind == "unit":
            places[op.name].view(numbers)[...] = values[op.name]
    entries, parameters = [], {}
    for op in program.operations:
        if op.variable is None:
            continue
        outputs, inputs = weights[op.name]
        transposed = bool(op.kind == "product" and rng.random() < 0.3)
        factor = float(rng.choice([1.0, -0.5])) if rng.random() < 0.7 else rng.normal(size=(1, 1))
        shape = (inputs, outputs) if transposed else (outputs, inputs)
        parameters[op.name] = shape
        entries.append(
            Entry(op.name, op.name, slice(0, shape[0]), slice(0, outputs), slice(0, inputs), transposed, factor)
        )
    states = rng.normal(size=(rows, trials, program.n_states))
    return StepForm(
        program, numbers, places, states, rng.normal(size=(rows, trials, column)), known, values, tuple(entries),
        parameters,
    )  # fmt: skip
