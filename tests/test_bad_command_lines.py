"""A table of command lines that must fail: exit status 2, one sentence that says what and where, and nothing written.

A row is the words of a command line and what must stand in the sentence. ``{d}`` is the folder of prepared files,
``{out}`` a place in the folder of the test, which must be empty afterwards.
"""

import json
import os
import pickle
import shlex
import signal
import socket
import subprocess
import sys

import numpy as np
import pytest
from safetensors.numpy import save_file

from kpref import Readout, cli, save_checkpoint
from kpref.models import GRU, RNN, Rate

pytestmark = pytest.mark.skipif(os.name != "posix", reason="pipes, links and devices are POSIX")

B, T, N_IN, H, N_OUT = 3, 4, 2, 3, 2
LONGEST = 60  # seconds after which a command line hangs; none takes one


#: Factories for --model.
FACTORIES = """\
import numpy as np

import kpref
from kpref.models import GRU, Rate, UserMap

number = 5


def raises():
    return {}["tau"]


def asks(size):
    return GRU.init(2, size, seed=0)


def wrong():
    return 7


def two():
    return bare(), bare()


def flow():
    return kpref.Flow(bare(), np.ones((3, 4, 2)))


def start():
    return bare(), np.zeros(4)


def starts():
    return bare(), np.zeros((5, 3)), kpref.Trials(inputs=np.ones((3, 4, 2)))


def bare():
    return GRU.init(2, 3, seed=0)


def field():
    return Rate.init(2, 3, seed=0), kpref.Trials(inputs=np.ones((3, 4, 2)))


def derivative():
    def wrong(z, x, p):
        return 0 * z[..., None] * z[..., None, :]

    return UserMap(lambda z, x, p: p["k"] * z, 2, 2, parameters={"k": 1.0}, state_jacobian=wrong)


def later():
    def function(z, x, p):
        return p["k"] * z + x + 1 / (len(z) != 3)  # three trials are not what it is checked at

    return UserMap(function, 2, 2, parameters={"k": 1.0})
"""


#: A grid for `kpref sweep`, and by the names of files what is changed in it.
GRID = """\
metrics = ["loss"]
[grid]
gain = [0.5, 1.0]
[fixed]
task = "flip_flop"
steps = 2
"""
GRIDS = {
    "good": ("", ""),
    "no_toml": ("[grid]", "[grid"),
    "twice": ("steps = 2", "steps = 2\nsteps = 3"),
    "deep": ("2", "[" * 100_000),
    "table": ("[fixed]", "[fixd]"),
    "grid_number": ("[grid]\ngain = [0.5, 1.0]", "grid = 3"),
    "no_metrics": ('metrics = ["loss"]', ""),
    "metric": ('"loss"', '"dimension_k"'),
    "unfit": ('"loss"', '"accuracy"'),
    "setting": ("gain", "gains"),
    "empty": ("[0.5, 1.0]", "[]"),
    "number": ("[0.5, 1.0]", "0.5"),
    "word": ("[0.5, 1.0]", '[0.5, "1"]'),
    "large": ("[0.5, 1.0]", f"[0.5, 1.0]\nunits = {list(range(1, 1001))}\nseed = {list(range(51))}"),
    "task": ("flip_flop", "flop_flip"),
    "both": ("steps = 2", 'steps = 2\ntrials = "../targets.npz"'),
    "no_file": ('task = "flip_flop"', 'trials = "no.npz"'),
    "bare": ('task = "flip_flop"', 'trials = "../inputs.npz"'),
    "limits": ("steps = 2", "steps = 2\n[limits]\nminutes = 2"),
}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """Good files, and all the ways in which they can be bad."""
    d = tmp_path_factory.mktemp("prepared")
    rng = np.random.default_rng(0)
    model, readout = GRU.init(N_IN, H, seed=0), Readout(rng.normal(size=(N_OUT, H)), np.zeros(N_OUT))
    inputs, targets = rng.normal(size=(B, T, N_IN)), rng.normal(size=(B, T, N_OUT))

    def trials(name, **arrays):
        given = {"inputs": inputs, **arrays}
        np.savez(d / name, **{key: array for key, array in given.items() if array is not None})

    def checkpoint(name, **changes):
        tensors = {"rnn.weight_ih_l0": np.ones((H, N_IN)), "rnn.weight_hh_l0": np.eye(H), "fc.weight": np.ones((2, H))}
        given = {key: array for key, array in {**tensors, **changes}.items() if array is not None}
        save_file({key: np.ascontiguousarray(array) for key, array in given.items()}, d / name)

    for folder in ("run", "other"):
        (d / folder).mkdir()
        save_checkpoint(d / folder / "at_0.safetensors", model, readout)
        np.savez(d / folder / "trials.npz", inputs=inputs, targets=targets)
    save_checkpoint(d / "gru.npz", model, readout)
    save_checkpoint(d / "rnn.npz", RNN.init(N_IN, H, seed=0), readout)
    save_checkpoint(d / "rate.npz", Rate.init(N_IN, H, seed=0), readout)
    whole = (d / "gru.npz").read_bytes()

    (d / "empty").mkdir()
    (d / "bare").mkdir()
    save_checkpoint(d / "bare" / "at_0.npz", model)
    (d / "folder.npz").mkdir()
    (d / "file").write_text("text")
    (d / "nothing.npz").write_bytes(b"")
    (d / "text.safetensors").write_text("these are no weights")
    (d / "pickle.pt").write_bytes(pickle.dumps({"a": 1}))
    (d / "cut.npz").write_bytes(whole[: len(whole) // 2])
    (d / "flipped.npz").write_bytes(whole[:200] + bytes([whole[200] ^ 255]) + whole[201:])
    (d / "zip.npz").write_bytes(b"PK\x03\x04" + bytes(100))
    cut = (d / "run" / "at_0.safetensors").read_bytes()
    (d / "cut.safetensors").write_bytes(cut[:100])
    (d / "huge.safetensors").write_bytes((2**62).to_bytes(8, "little") + b'{"a": 1}')
    deep = b'{"__metadata__":' + b'{"a":' * 50_000 + b"1" + b"}" * 50_001
    (d / "deep.safetensors").write_bytes(len(deep).to_bytes(8, "little") + deep)
    np.save(d / "array.npy", inputs)
    os.mkfifo(d / "pipe.npz")
    os.mkfifo(d / "pipe.pt")
    (d / "loop").symlink_to(d / "loop")
    (d / "dangling.npz").symlink_to(d / "gone.npz")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(d / "socket"))

    checkpoint("none.safetensors", **{"rnn.weight_hh_l0": None, "rnn.weight_ih_l0": None})
    checkpoint("no_ih.safetensors", **{"rnn.weight_ih_l0": None})
    projected = {"rnn.weight_hh_l0": np.ones((4 * H, 1)), "rnn.weight_hr_l0": np.ones((1, H))}
    checkpoint("lstm.safetensors", **projected, **{"rnn.weight_ih_l0": np.ones((4 * H, 2))})
    checkpoint("stacked.safetensors", **{"rnn.weight_hh_l1": np.eye(H)})
    checkpoint("both_ways.safetensors", **{"rnn.weight_hh_l0_reverse": np.eye(H)})
    checkpoint("nan.safetensors", **{"rnn.weight_hh_l0": np.full((H, H), np.nan)})
    checkpoint("square.safetensors", **{"rnn.weight_hh_l0": np.ones((H, H + 1))})
    checkpoint("rows.safetensors", **{"rnn.weight_ih_l0": np.ones((H + 1, N_IN))})
    checkpoint("axes.safetensors", **{"rnn.weight_hh_l0": np.ones(H)})
    checkpoint("unknown.safetensors", **{"momentum": np.ones(7)})

    trials("targets.npz", targets=targets)
    trials("labels.npz", labels=np.array([0, 1, 0]))
    trials("inputs.npz")
    trials("channels.npz", inputs=np.ones((B, T, 5)))
    trials("outputs.npz", targets=np.ones((B, T, 5)))
    trials("fewer.npz", targets=targets[:2])
    trials("shorter.npz", targets=targets[:, :2])
    trials("nan.npz", inputs=np.full((B, T, N_IN), np.nan))
    trials("nan_targets.npz", targets=np.full((B, T, N_OUT), np.inf))
    trials("complex.npz", inputs=inputs + 1j)
    trials("words.npz", inputs=np.full((B, T, N_IN), "a"))
    trials("flat.npz", inputs=np.ones((B, N_IN)))
    trials("no_trials.npz", inputs=np.ones((0, T, N_IN)))
    trials("no_steps.npz", inputs=np.ones((B, 0, N_IN)))
    trials("no_channels.npz", inputs=np.ones((B, T, 0)))
    trials("one_step.npz", inputs=inputs[:, :1])
    trials("no_inputs.npz", inputs=None, targets=targets)
    trials("noise.npz", noise=np.ones(3))
    trials("class_2.npz", labels=np.array([0, 1, 2]))
    trials("class_-1.npz", labels=np.array([0, 1, -1]))
    trials("real_labels.npz", labels=np.array([0.0, 1.5, 1.0]))
    trials("two_labels.npz", labels=np.array([0, 1]))
    trials("negative.npz", targets=targets, mask=-np.ones(T))
    trials("zero.npz", targets=targets, mask=np.zeros(T))
    trials("long_mask.npz", targets=targets, mask=np.ones(T + 1))
    trials("not_last.npz", labels=np.array([0, 1, 0]), mask=np.array([[1, 1, 1, 0.0], [1, 0, 1, 0], [0, 1, 1, 0]]))
    np.savez(d / "objects.npz", inputs=np.array([[1], None], dtype=object))

    (d / "grids").mkdir()
    for name, (old, new) in GRIDS.items():
        (d / "grids" / f"{name}.toml").write_text(GRID.replace(old, new))
    (d / "grids" / "latin.toml").write_bytes(b"# \xff")
    (d / "model.py").write_text(FACTORIES)
    (d / "broken.py").write_text("def make(:\n")
    (d / "fails.py").write_text("import not_there\n")
    (d / "leaves.py").write_text("import sys\nsys.exit(3)\n")
    os.mkfifo(d / "pipe.py")

    for name, content in {
        "invalid": b"{",
        "list": b"[]",
        "deep": b"[" * 100_000,
        "bytes": b"\xff\xfe",
        "format": b'{"format": "other"}',
        "version": json.dumps(
            {"format": "kpref-golden", "version": 99, "problem": {}, "seed": 0, "arithmetic": "float64", "probes": {}}
        ).encode(),
        "alone": json.dumps(
            {"format": "kpref-golden", "version": 1, "problem": {}, "seed": 0, "arithmetic": "float64", "probes": {}}
        ).encode(),
    }.items():
        (d / "golden" / name).mkdir(parents=True)
        (d / "golden" / name / "manifest.json").write_bytes(content)
    (d / "golden" / "pipe").mkdir()
    os.mkfifo(d / "golden" / "pipe" / "manifest.json")
    (d / "foreign").mkdir()
    (d / "foreign" / "thesis.tex").write_text("years of work")
    (d / "claims").mkdir()
    (d / "claims" / "metrics.json").write_bytes(b"[" * 100_000)
    yield d
    (d / "pipe.npz").unlink()


ITSELF = [
    ("", "COMMAND"),
    ("dance", "invalid choice: 'dance'"),
    ("ANALYZE", "invalid choice: 'ANALYZE'"),
    ("''", "invalid choice: ''"),
    ("--dance", "COMMAND"),
    ("-x", "COMMAND"),
    ("--version=3", "--version"),
    ("dance analyze", "invalid choice: 'dance'"),
    ("--verbose analyze", "--verbose"),
    ("'a\x1b[31mb'", "invalid choice"),
    ("'a\nb'", "invalid choice"),
]

COUNTS = ["0", "-1", "1.5", "x", "''", "1e3", "²", "0x10", "1_0", "nan", "99999999999999999999", "' 1'"]
NUMBERS = ["0", "-1", "nan", "inf", "x", "''", "1e999", "1,5"]
RUN = "analyze {d}/run --out {out}"
GRU_ON = "analyze {d}/gru.npz --out {out} --trials"

OPTIONS = [
    *((f"{RUN} --modes={value}", "--modes: expected a positive integer") for value in COUNTS),
    *((f"{RUN} --max-trials={value}", "--max-trials: expected a positive integer") for value in COUNTS),
    *((f"{RUN} --seed={value}", "--seed: expected a non-negative integer") for value in COUNTS[1:]),
    (f"{RUN} --seed {'9' * 5000}", "--seed: expected a non-negative integer of at most 2^63 - 1"),
    *((f"{RUN} --dt={value}", "--dt: expected a positive number") for value in NUMBERS),
    *((f"{RUN} --tau={value}", "--tau: expected a positive number") for value in NUMBERS),
    (f"{RUN} --loss l2", "--loss: invalid choice: 'l2'"),
    (f"{RUN} --loss MSE", "--loss: invalid choice: 'MSE'"),
    (f"{RUN} --at first", "--at: invalid choice"),
    (f"{RUN} --measure median", "--measure: invalid choice"),
    (f"{RUN} --nonlinearity gelu", "--nonlinearity: invalid choice"),
    (f"{RUN} --dt 1 --method rk5", "--method: invalid choice"),
    (f"{RUN} --dt 1 --input-kind spline", "--input-kind: invalid choice"),
    (f"{RUN} --figures gif", "--figures: invalid choice"),
    (f"{RUN} --quiet=1", "--quiet"),
    (f"{RUN} --nonsense", "--nonsense"),
    (f"{RUN} --modes", "--modes: expected one argument"),
    (f"{RUN} --trials", "--trials: expected one argument"),
    ("analyze {d}/run --out", "--out: expected one argument"),
    ("analyze {d}/run --out ''", "--out: expected a path"),
    ("analyze {d}/run --out .", "is the current folder; name a new folder inside it"),
    (f"{RUN} --trials ''", "--trials: expected a path"),
    ("analyze '' --out {out}", "expected a path"),
    (f"{RUN} --method rk4", "--method is for networks in continuous time and needs --dt"),
    (f"{RUN} --tau 2", "--tau is for networks in continuous time and needs --dt"),
    (f"{RUN} --input-kind hold", "--input-kind is for networks in continuous time and needs --dt"),
    (f"{RUN} --loss cross_entropy", "needs labels, which the trials do not have"),
    (f"{GRU_ON} {{d}}/labels.npz --loss mse", "needs targets, which the trials do not have"),
    (f"{GRU_ON} {{d}}/inputs.npz --loss mse", "needs targets, which the trials do not have"),
    (f"{RUN} --dt 0.1", "a network in continuous time must be a rate network"),
    (f"{RUN} --nonlinearity relu", "a GRU has no nonlinearity to choose"),
    ("analyze {d}/rate.npz --trials {d}/targets.npz --out {out}", "in continuous time: --dt is needed"),
    ("analyze {d}/rate.npz --trials {d}/one_step.npz --dt 1 --out {out}", "--dt needs trials of at least 2 times"),
]

FILES = [
    ("analyze {d}/no.npz --trials {d}/targets.npz --out {out}", "No such file or directory: {d}/no.npz"),
    ("analyze {d}/rnu --out {out}", "the checkpoint cannot be read: No such file or directory: {d}/rnu"),
    ("analyze {d}/no/such.pt --trials {d}/targets.npz --out {out}", "No such file"),
    ("analyze {d}/file/below.npz --trials {d}/targets.npz --out {out}", "Not a directory"),
    ("analyze {d}/empty --out {out}", "holds no checkpoint"),
    ("analyze {d}/folder.npz --out {out}", "holds no checkpoint"),
    ("analyze {d}/bare --out {out}", "{d}/bare/trials.npz"),
    ("analyze {d}/gru.npz --out {out}", "--trials is needed"),
    ("analyze {d}/run {d}/other --out {out}", "several folders are given"),
    ("analyze {d}/run {d}/no.npz --out {out}", "No such file"),
    ("analyze {d}/pipe.npz --trials {d}/targets.npz --out {out}", "is a pipe"),
    ("analyze {d}/pipe.pt --trials {d}/targets.npz --out {out}", "is a pipe"),
    ("analyze {d}/socket --trials {d}/targets.npz --out {out}", "is a pipe, a socket or a device"),
    ("analyze /dev/null --trials {d}/targets.npz --out {out}", "/dev/null is a pipe, a socket or a device"),
    ("analyze /dev/zero --trials {d}/targets.npz --out {out}", "/dev/zero is a pipe, a socket or a device"),
    ("analyze {d}/loop --trials {d}/targets.npz --out {out}", "{d}/loop"),
    ("analyze {d}/loop/a.npz --trials {d}/targets.npz --out {out}", "{d}/loop/a.npz"),
    ("analyze {d}/dangling.npz --trials {d}/targets.npz --out {out}", "No such file or directory: {d}/dangling.npz"),
    (f"analyze {{d}}/{'n' * 300}.npz --trials {{d}}/targets.npz --out {{out}}", "name too long"),
    ("analyze {d}/nothing.npz --trials {d}/targets.npz --out {out}", "nothing.npz is empty"),
    ("analyze {d}/text.safetensors --trials {d}/targets.npz --out {out}", "text.safetensors is not a safetensors"),
    ("analyze {d}/array.npy --trials {d}/targets.npz --out {out}", "array.npy is not a safetensors"),
    ("analyze {d}/pickle.pt --trials {d}/targets.npz --out {out}", "pickle"),
    ("analyze {d}/cut.npz --trials {d}/targets.npz --out {out}", "cut.npz is a truncated or damaged"),
    ("analyze {d}/flipped.npz --trials {d}/targets.npz --out {out}", "flipped.npz"),
    ("analyze {d}/zip.npz --trials {d}/targets.npz --out {out}", "zip.npz is a truncated or damaged"),
    ("analyze {d}/cut.safetensors --trials {d}/targets.npz --out {out}", "cut.safetensors"),
    ("analyze {d}/huge.safetensors --trials {d}/targets.npz --out {out}", "huge.safetensors"),
    ("analyze {d}/deep.safetensors --trials {d}/targets.npz --out {out}", "deep.safetensors"),
    ("analyze {d}/objects.npz --trials {d}/targets.npz --out {out}", "objects.npz"),
    ("analyze {d}/none.safetensors --trials {d}/targets.npz --out {out}", "no recurrent layer"),
    ("analyze {d}/no_ih.safetensors --trials {d}/targets.npz --out {out}", "weight_ih"),
    ("analyze {d}/lstm.safetensors --trials {d}/targets.npz --out {out}", "LSTM"),
    ("analyze {d}/stacked.safetensors --trials {d}/targets.npz --out {out}", "rnn.weight_hh_l1"),
    ("analyze {d}/both_ways.safetensors --trials {d}/targets.npz --out {out}", "rnn.weight_hh_l0_reverse"),
    ("analyze {d}/nan.safetensors --trials {d}/targets.npz --out {out}", "rnn.weight_hh_l0"),
    ("analyze {d}/square.safetensors --trials {d}/targets.npz --out {out}", "rnn.weight_hh_l0"),
    ("analyze {d}/rows.safetensors --trials {d}/targets.npz --out {out}", "rnn.weight_ih_l0"),
    ("analyze {d}/axes.safetensors --trials {d}/targets.npz --out {out}", "rnn.weight_hh_l0"),
    ("analyze {d}/unknown.safetensors --trials {d}/targets.npz --out {out}", "'momentum'"),
    (f"{GRU_ON} {{d}}/no.npz", "No such file or directory: {d}/no.npz"),
    (f"{GRU_ON} {{d}}/pipe.npz", "is a pipe"),
    (f"{GRU_ON} {{d}}/run", "{d}/run is a folder"),
    (f"{GRU_ON} /dev/null", "/dev/null is a pipe, a socket or a device"),
    (f"{GRU_ON} {{d}}/loop", "{d}/loop"),
    (f"{GRU_ON} {{d}}/run/at_0.safetensors", "is not an npz file"),
    (f"{GRU_ON} {{d}}/nothing.npz", "nothing.npz"),
    (f"{GRU_ON} {{d}}/array.npy", "is not an npz file"),
    (f"{GRU_ON} {{d}}/objects.npz", "objects.npz"),
    (f"{GRU_ON} {{d}}/gru.npz", "gru.npz"),
    (f"{GRU_ON} {{d}}/channels.npz", "the trials have 5 input channels, but the network in {d}/gru.npz takes 2"),
    (f"{GRU_ON} {{d}}/outputs.npz", "the trials have 5 target channels, but the readout in {d}/gru.npz gives 2"),
    (f"{GRU_ON} {{d}}/fewer.npz", "fewer.npz: targets"),
    (f"{GRU_ON} {{d}}/shorter.npz", "shorter.npz: targets"),
    (f"{GRU_ON} {{d}}/nan.npz", "inputs holds nan at trial 0, step 0, channel 0"),
    (f"{GRU_ON} {{d}}/nan_targets.npz", "targets holds inf at trial 0, step 0, channel 0"),
    (f"{GRU_ON} {{d}}/complex.npz", "complex.npz: inputs"),
    (f"{GRU_ON} {{d}}/words.npz", "words.npz: inputs"),
    (f"{GRU_ON} {{d}}/flat.npz", "flat.npz: inputs"),
    (f"{GRU_ON} {{d}}/no_trials.npz", "at least one trial"),
    (f"{GRU_ON} {{d}}/no_steps.npz", "at least one"),
    (f"{GRU_ON} {{d}}/no_channels.npz", "no_channels.npz"),
    (f"{GRU_ON} {{d}}/no_inputs.npz", "'inputs'"),
    (f"{GRU_ON} {{d}}/noise.npz", "'noise'"),
    (f"{GRU_ON} {{d}}/class_2.npz", "label 2, but the readout in {d}/gru.npz has 2 outputs"),
    (f"{GRU_ON} {{d}}/class_-1.npz", "labels holds -1"),
    (f"{GRU_ON} {{d}}/real_labels.npz", "real_labels.npz: labels"),
    (f"{GRU_ON} {{d}}/two_labels.npz", "two_labels.npz: labels"),
    (f"{GRU_ON} {{d}}/negative.npz", "negative.npz: mask"),
    (f"{GRU_ON} {{d}}/zero.npz", "mask is zero everywhere"),
    (f"{GRU_ON} {{d}}/long_mask.npz", "long_mask.npz: mask"),
]

MODEL = "analyze --model {d}/model.py"
MODELS = [
    ("analyze --model ''", "--model: expected MODULE:FACTORY or FILE.py:FACTORY, got ''"),
    ("analyze --model model", "expected MODULE:FACTORY or FILE.py:FACTORY, got 'model'"),
    ("analyze --model model:", "expected MODULE:FACTORY or FILE.py:FACTORY, got 'model:'"),
    ("analyze --model :make", "expected MODULE:FACTORY or FILE.py:FACTORY, got ':make'"),
    ("analyze --model m:f()", "expected MODULE:FACTORY or FILE.py:FACTORY, got 'm:f()'"),
    ("analyze --model nowhere:make", "there is no module 'nowhere', in the current folder or installed"),
    ("analyze --model no.where:make", "there is no module 'no.where', in the current folder or installed"),
    ("analyze --model ..:make", "there is no module '..', in the current folder or installed"),
    ("analyze --model {d}/no.py:make", "the module of --model cannot be read: No such file or directory: {d}/no.py"),
    ("analyze --model {d}/pipe.py:make", "{d}/pipe.py is a pipe"),
    ("analyze --model {d}/broken.py:make", "importing {d}/broken.py raised SyntaxError"),
    ("analyze --model {d}/fails.py:make", "raised ModuleNotFoundError (No module named 'not_there'), in line 1 of {d}"),
    ("analyze --model {d}/leaves.py:make", "importing {d}/leaves.py raised SystemExit (3), in line 2 of {d}/leaves.py"),
    (f"{MODEL}:nothing", "there is no 'nothing' in {d}/model.py"),
    (f"{MODEL}:number", "{d}/model.py:number must be a function without arguments; got 5"),
    (f"{MODEL}:raises", "{d}/model.py:raises raised KeyError ('tau'), in line 10 of {d}/model.py"),
    (f"{MODEL}:asks", "{d}/model.py:asks raised TypeError (asks() missing 1 required positional argument: 'size')"),
    (f"{MODEL}:wrong", "{d}/model.py:wrong must return a model of kpref.models, or a tuple of it and perhaps a kpref."),
    (f"{MODEL}:two", "got (GRU, GRU)"),
    (f"{MODEL}:flow", "kpref.Trials and an array of initial states; got Flow("),
    (f"{MODEL}:start", "initial states of {d}/model.py:start must have shape (3,) or (B, 3); got (4,)"),
    (f"{MODEL}:starts", "in {d}/model.py:starts are those of 5 trials, and 3 trials are analyzed"),
    (f"{MODEL}:derivative", "raised ValueError (state_jacobian is wrong: the derivative of f[0] by z[0] is "),
    (f"{MODEL}:bare", "--trials is needed where the factory returns none: {d}/model.py:bare did not"),
    (f"{MODEL}:bare --trials {{d}}/channels.npz", "5 input channels, but the network in {d}/model.py:bare takes 2"),
    (f"{MODEL}:bare --trials {{d}}/targets.npz --dt 0.1", "is a map in discrete time, for which there is no --dt"),
    (f"{MODEL}:field", "the network in {d}/model.py:field is one in continuous time: --dt is needed"),
    (f"{MODEL}:later --quiet --trials {{d}}/inputs.npz", "function raised ZeroDivisionError (division by zero) for"),
    (f"{MODEL}:bare {{d}}/gru.npz", "--model stands in place of checkpoints; got {d}/gru.npz too"),
    *((f"{MODEL}:bare --{option}", f"--{option.split()[0]} says what is in a checkpoint; --model makes the network")
      for option in ("readout fc", "z0 h0", "ignore x", "map weight_hh=x", "trainable weight_hh", "nonlinearity relu",
                     "tau 1")),
]  # fmt: skip

OUTPUTS = [
    ("analyze {d}/run --out {d}/file", "{d}/file is a file"),
    ("analyze {d}/run --out {d}/pipe.npz", "{d}/pipe.npz is a file"),
    ("analyze {d}/run --out /dev/full", "/dev/full is a file"),
    ("analyze {d}/run --out {out}/no/such", "does not exist"),
    ("analyze {d}/run --out {d}/file/below", "{d}/file"),
    ("analyze {d}/run --out {d}/loop", "loop"),
    ("analyze {d}/run --out {d}/loop/out", "loop"),
    ("analyze {d}/run --out {d}/foreign", "files that kpref did not write (thesis.tex)"),
    ("analyze {d}/run --out {d}/claims", "files that kpref did not write (metrics.json)"),
    ("analyze {d}/run --out {d}/run", "files that kpref did not write (at_0.safetensors, trials.npz)"),
    ("analyze {d}/run --out /", "files that kpref did not write"),
    ("analyze {d}/run --out /proc/kpref", "cannot write the output folder /proc/kpref"),
    (f"analyze {{d}}/run --out {'n' * 300}", "name too long"),
    ("analyze {d}/run --plan --out {d}/foreign", "thesis.tex"),
    ("analyze {d}/run --quiet --out {d}/foreign", "thesis.tex"),
]

FROM = "train --trials {d}/targets.npz -o {out} --steps 3"
TRAIN = [
    ("train -o {out} --steps 3", "one of the arguments --task --trials is required"),
    (f"{FROM} --task memory_pro", "not allowed with argument --trials"),
    ("train --trials {d}/targets.npz --steps 3", "-o/--out"),
    ("train --trials {d}/targets.npz -o {out}", "--steps"),
    *((f"{FROM} --units={value}", "--units: expected a positive integer") for value in COUNTS),
    *((f"{FROM} --learning-rate={value}", "--learning-rate: expected a positive number") for value in NUMBERS),
    (f"{FROM} --model transformer", "--model: invalid choice"),
    (f"{FROM} --optimizer sgd", "--optimizer: invalid choice"),
    (f"{FROM} --trainable weight_hh,", "--trainable: expected names with commas between them"),
    (f"{FROM} --trainable weight_oo", "trainable must name some of weight_ih"),
    (f"{FROM} --loss cross_entropy", "needs trials with labels"),
    (f"{FROM} --batch-size 9", "batch_size must be at most the 3 trials; got 9"),
    (f"{FROM} --dt 0.1", "dt is for models in continuous time"),
    (f"{FROM} --model rate", "needs dt or times"),
    ("train --trials {d}/inputs.npz -o {out} --steps 3", "neither targets nor labels"),
    ("train --trials {d}/nan_targets.npz -o {out} --steps 3", "targets holds inf at trial 0, step 0, channel 0"),
    ("train --trials {d}/class_-1.npz -o {out} --steps 3", "labels holds -1"),
    ("train --trials {d}/zero.npz -o {out} --steps 3", "mask is zero everywhere"),
    ("train --trials {d}/no_trials.npz -o {out} --steps 3", "at least one trial"),
    ("train --trials {d}/not_last.npz -o {out} --steps 3 --at last", "leaves nothing to score at the last steps"),
    ("train --trials {d}/pipe.npz -o {out} --steps 3", "is a pipe"),
    ("train --trials {d}/targets.npz -o {d}/foreign --steps 3", "holds something else than a training"),
    ("train --trials {d}/targets.npz -o {d}/file --steps 3", "{d}/file"),
]  # fmt: skip

SWEEP = [
    ("sweep", "GRID.toml, -o/--out"),
    ("sweep {d}/grids/good.toml", "-o/--out"),
    *((f"sweep {{d}}/grids/good.toml -o {{out}} --workers={value}", "--workers: expected a positive integer")
      for value in COUNTS),
    *((f"sweep {{d}}/grids/good.toml -o {{out}} --list {option}", f"takes no {option.split()[0]}") for option in
      ("--retry-failed", "--figure", "--parquet", "--workers 2", "--cluster tcp://127.0.0.1:9")),
    ("sweep {d}/grids/good.toml -o {out} --retry", "did you mean --retry-failed?"),
    *((f"sweep {{d}}/{name} -o {{out}}", expected) for name, expected in {
        "grids/no.toml": "No such file or directory: {d}/grids/no.toml",
        "grids": "{d}/grids is a folder; expected a file",
        "pipe.npz": "is a pipe",
        "targets.npz": "is not a TOML file",
        "grids/latin.toml": "is not a TOML file",
        "grids/no_toml.toml": "grids/no_toml.toml is not a TOML file",
        "grids/twice.toml": "is not a TOML file: Cannot overwrite a value (at line 7, column 10)",
        "grids/deep.toml": "is not a TOML file",
        "grids/table.toml": "expected metrics, [grid], [fixed] and [limits]; got 'fixd' (did you mean fixed?)",
        "grids/grid_number.toml": "grid must be a table, [grid]; got 3",
        "grids/no_metrics.toml": "metrics must name what is measured of each cell",
        "grids/metric.toml": "there is no metric 'dimension_k' (did you mean dimension_K?)",
        "grids/unfit.toml": "the metric accuracy is of a classification",
        "grids/setting.toml": "there is no setting 'gains', which stands in [grid] (did you mean gain?)",
        "grids/empty.toml": "gain of [grid] must hold at least one value",
        "grids/number.toml": "gain of [grid] must be a list (what does not vary stands in [fixed]); got 0.5",
        "grids/word.toml": "gain[1] of [grid] must be a real number above 0; got '1'",
        "grids/large.toml": "[grid] must make at most 100,000 cells; got 2 x 1000 x 51 = 102,000",
        "grids/task.toml": "task of [fixed] must be one of",
        "grids/both.toml": "either task or trials must be given, in [grid] or [fixed]; both are",
        "grids/no_file.toml": "No such file or directory: {d}/grids/no.npz",
        "grids/bare.toml": "neither targets nor labels to train on",
        "grids/limits.toml": "[limits] are seconds and memory; got 'minutes'",
    }.items()),
    ("sweep {d}/grids/good.toml -o {d}/foreign", "holds something else than a sweep"),
    *((f"sweep {{d}}/grids/good.toml -o {{d}}/file{more}", "{d}/file, is a file; name another folder") for more in
      ("", " --list")),
    ("sweep {d}/grids/good.toml -o {d}/run --list", "holds something else than a sweep"),
    ("sweep {d}/grids/good.toml -o /proc/kpref", "/proc/kpref"),
]  # fmt: skip

VERIFY = [
    ("verify", "MODULE:FACTORY"),
    *((f"verify m:f --{name} {value}", f"--{name}: expected a positive integer")
      for name in ("trials", "steps", "states", "inputs") for value in ("0", "x", "1e3")),
    *((f"verify m:f --gain={value}", "--gain: expected a finite number") for value in ("nan", "inf", "-inf", "x")),
    *((f"verify m:f --timeout={value}", "--timeout: expected a positive number")
      for value in ("0", "-1", "nan", "inf", "x", "1e300")),
    ("verify m:f --seed=-1", "--seed: expected a non-negative integer"),
    ("verify m:f --arithmetic float8", "--arithmetic: invalid choice"),
    ("verify m:f --exact --repeats 40", "--repeats 40 is for certificates"),
    ("verify m:f --measure median", "--measure: invalid choice"),
    ("verify m:f --checkpoint ''", "--checkpoint: expected a path"),
    ("verify m:f --json {out}/no/report.json", "{out}/no is not a folder"),
    ("verify m:f --json {d}/empty", "{d}/empty: it exists and is not a file"),
    ("verify m:f --json {d}/pipe.npz", "{d}/pipe.npz: it exists and is not a file"),
    ("verify m:f --json /dev/null", "/dev/null: it exists and is not a file"),
    ("verify m:f --json {d}/file/below", "{d}/file is not a folder"),
    ("verify m:f --figure {out}/no/figure.png", "{out}/no is not a folder"),
    ("verify m:f --json {out} --figure {out}", "name two files"),
    ("verify m:f --figure {out}/figure.gif", "--figure is a picture in a file named *.png; got {out}/figure.gif"),
    ("verify m:f --trials-file {d}/targets.npz", "--trials-file needs --checkpoint"),
    ("verify m:f --checkpoint {d}/no.npz", "No such file"),
    ("verify m:f --checkpoint {d}/pipe.npz", "is a pipe"),
    ("verify m:f --checkpoint {d}/run", "{d}/run is a folder"),
    ("verify m:f --checkpoint {d}/rate.npz", "only maps can be verified"),
    ("verify m:f --checkpoint {d}/gru.npz --trials-file {d}/channels.npz", "inputs"),
    ("verify m:f --checkpoint {d}/gru.npz --trials-file {d}/pipe.npz", "is a pipe"),
    ("verify m:f --checkpoint {d}/gru.npz --trials-file {d}/no.npz", "No such file"),
    ("verify m:f --trials 1000000000 --steps 1000000", "GiB of memory"),
    ("verify m:f --states 1000000000", "GiB of memory"),
    ("verify m:f --checkpoint {d}/gru.npz --trials 1000000000000", "GiB of memory"),
]  # fmt: skip

GOLDEN = [
    ("golden", "ACTION"),
    ("golden dance", "invalid choice: 'dance'"),
    ("golden export", "DIR"),
    ("golden check", "DIR"),
    ("golden export ''", "expected a path"),
    ("golden export {out} --trials 0", "--trials: expected a positive integer"),
    ("golden export {out} --arithmetic float8", "--arithmetic: invalid choice"),
    ("golden export {out} --checkpoint {d}/no.npz", "No such file"),
    ("golden export {out} --states 1000000000", "GiB of memory"),
    ("golden export {d}/foreign --states 3", "{d}/foreign exists and is not an empty folder"),
    ("golden export {d}/file --states 3", "{d}/file exists and is not an empty folder"),
    ("golden export .", "is the current folder; name a new folder inside it"),
    ("golden export {d}/pipe.npz --states 3", "{d}/pipe.npz exists"),
    ("golden check {d}/no", "{d}/no"),
    ("golden check {d}/empty", "{d}/empty"),
    ("golden check {d}/file", "{d}/file"),
    ("golden check {d}/loop", "{d}/loop"),
    ("golden check {d}/golden/invalid", "is not the manifest of a golden folder"),
    ("golden check {d}/golden/list", "is not the manifest of a golden folder"),
    ("golden check {d}/golden/deep", "is not the manifest of a golden folder: maximum recursion depth"),
    ("golden check {d}/golden/bytes", "is not the manifest of a golden folder"),
    ("golden check {d}/golden/format", "its format is 'other'"),
    ("golden check {d}/golden/version", "version 99"),
    ("golden check {d}/golden/alone", "problem.npz"),
    ("golden check {d}/golden/pipe", "is a pipe"),
    ("golden check {d}/empty --json {out}/no/report.json", "{out}/no is not a folder"),
]

BENCH = [
    *((f"bench --{name} {value}", f"--{name}: expected a positive integer")
      for name in ("trials", "steps", "states", "inputs", "repeats") for value in ("0", "x", "1.5")),
    ("bench --model transformer", "--model: invalid choice"),
    ("bench --fast", "--fast and --thorough are for --report"),
    ("bench --report --fast --thorough", "--fast and --thorough cannot both be asked for"),
    ("bench --report --json {out}/bench.json", "--json holds timings of operators"),
    ("analyze --fast --thorough", "--fast and --thorough cannot both be asked for"),
    ("bench --method rk4", "--method is for networks in continuous time"),
    ("bench --method rk5", "--method: invalid choice"),
    ("bench --dtype float16", "--dtype: invalid choice"),
    ("bench --json ''", "--json: expected a path"),
    ("bench --json {out}/no/bench.json", "{out}/no is not a folder"),
    ("bench --json {d}/empty", "{d}/empty: it exists and is not a file"),
    ("bench --json /dev/null", "/dev/null: it exists and is not a file"),
    ("bench --states 1000000000", "GiB of memory"),
    ("bench --trials 1000000000 --model rate", "GiB of memory"),
    ("bench 5", "unrecognized arguments: 5"),
    ("analyze {d}/run --mod 3", "did you mean --model?"),
    ("analyze {d}/run --modess 3", "did you mean --modes?"),
    ("analyze {d}/run --see=4", "did you mean --seed?"),
    ("verify {d}/backend.py --js x", "did you mean --json?"),
    ("golden check {d} --jsn x", "did you mean --json?"),
    ("golden export {out} --arith float32", "did you mean --arithmetic?"),
    ("bench --tri 3", "did you mean --trials?"),
]  # fmt: skip

ARRAYS = [
    (f"{RUN} --readout nowhere", "nowhere"),
    (f"{RUN} --ignore nowhere", "nowhere"),
    (f"{RUN} --z0 nowhere", "nowhere"),
    (f"{RUN} --trainable nowhere", "nowhere"),
    (f"{RUN} --trainable ,", "--trainable: expected names with commas between them"),
    (f"{RUN} --map nowhere", "--map: expected KEY=NAME"),
    (f"{RUN} --map weight_hh=nowhere", "nowhere"),
    (f"{RUN} --map weight_hh=a --map weight_hh=b", "--map says twice what weight_hh is"),
    (f"{RUN} --map nonsense=fc.weight", "nonsense"),
    (f"{GRU_ON} {{d}}/not_last.npz", "does not fit the trials and the readout in {d}/gru.npz"),
]

TASKS = [
    ("tasks paint", "invalid choice: 'paint'"),
    ("tasks draw", "the following arguments are required: TASK, -o/--out"),
    ("tasks draw flip_flop", "the following arguments are required: -o/--out"),
    ("tasks draw flipflop -o {out}/a.png", "there is no task 'flipflop' (did you mean flip_flop?)"),
    ("tasks draw flip_flop -o {out}/a.png", "{out} is not a folder"),
    ("tasks draw flip_flop -o a.gif", "a picture is a file named *.png, *.svg, *.pdf; got a.gif"),
    ("tasks save flip_flop -o a.npy", "trials are a file named *.npz; got a.npy"),
    ("tasks save flip_flop -o {d}/folder.npz", "folder.npz: it exists and is not a file"),
    ("tasks save flip_flop -o a.npz --trials 0", "--trials: expected a positive integer"),
    ("tasks save flip_flop -o a.npz --trials 1000000000", "GiB of memory"),
    ("tasks save flip_flop -o a.npz --seed -1", "--seed: expected"),
    ("tasks save flip_flop -o a.npz --set noise", "--set: expected OPTION=VALUE, as in noise=0; got 'noise'"),
    ("tasks save flip_flop -o a.npz --set noize=0", "has no option 'noize' (did you mean noise?); it takes steps,"),
    ("tasks save flip_flop -o a.npz --set noise=0 --set noise=1", "--set says twice what noise is: 0 and 1"),
    ("tasks save flip_flop -o a.npz --set noise=little", "noise must be a real number of at least 0; got 'little'"),
    ("tasks save digits -o a.npz --trials 2000", "n_trials must be at most 1500"),
]

TABLE = [*TASKS, *ITSELF, *OPTIONS, *FILES, *ARRAYS, *MODELS, *OUTPUTS, *TRAIN, *SWEEP, *VERIFY, *GOLDEN, *BENCH]


@pytest.fixture
def guarded():
    """A command line that waits for something that never comes fails rather than hangs."""

    def hang(number, frame):
        raise AssertionError("the command line hangs")

    before = signal.signal(signal.SIGALRM, hang)
    signal.alarm(LONGEST)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def words_of(line, prepared, out):
    return [word.replace("{d}", str(prepared)).replace("{out}", str(out)) for word in shlex.split(line)]


def check_message(errors, expected, prepared, out):
    (line,) = errors.splitlines()
    assert line.startswith("kpref: error: ")
    assert expected.replace("{d}", str(prepared)).replace("{out}", str(out)) in line
    assert "Traceback" not in line
    assert "defect of kpref" not in line
    assert line.isprintable()  # no colours, no control characters
    assert len(line) < 1500


def listing(folder):
    return sorted(str(path) for path in folder.rglob("*"))


@pytest.mark.parametrize("line, expected", TABLE, ids=[f"{index}" for index in range(len(TABLE))])
def test_bad_command_line(line, expected, prepared, tmp_path, monkeypatch, capfd, guarded):
    monkeypatch.delenv("KPREF_DEBUG", raising=False)
    monkeypatch.chdir(tmp_path)
    before = listing(prepared)
    try:
        status = cli.main(words_of(line, prepared, tmp_path / "out"))
    except SystemExit as leaving:
        status = leaving.code
    output = capfd.readouterr()
    assert status == 2
    assert output.out == ""
    check_message(output.err, expected, prepared, tmp_path / "out")
    assert os.listdir(tmp_path) == []
    assert listing(prepared) == before


def test_the_table_is_long_enough_and_names_no_line_twice():
    assert len({line for line, _ in TABLE}) == len(TABLE) >= 150


# The table is tried in this process: here it is what a process ends with.
PROCESSES = [OUTPUTS[0], VERIFY[0]]


@pytest.mark.parametrize("line, expected", PROCESSES, ids=[f"{index}" for index in range(len(PROCESSES))])
@pytest.mark.parametrize("module", ["kpref"])
def test_bad_command_line_as_a_process(line, expected, module, prepared, tmp_path):
    environment = {**os.environ, "TQDM_DISABLE": "1", "TQDM_MININTERVAL": "often", "KPREF_DEBUG": "0"}
    done = subprocess.run(
        [sys.executable, "-m", module, *words_of(line, prepared, tmp_path / "out")],
        cwd=tmp_path, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=LONGEST,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stdout == ""
    check_message(done.stderr, expected, prepared, tmp_path / "out")
    assert os.listdir(tmp_path) == []


GONE = "the current folder has been removed; change to one that exists"


@pytest.mark.parametrize("line", ["golden export answers", "verify m:f --json report.json"])
def test_current_folder_that_has_gone(line, prepared, tmp_path, monkeypatch, capsys):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert cli.main(words_of(line, prepared, "")) == 2
    check_message(capsys.readouterr().err, GONE, prepared, "")


def test_a_process_whose_folder_has_gone(prepared, tmp_path):
    gone = tmp_path / "gone"
    gone.mkdir()
    words = shlex.join([sys.executable, "-m", "kpref", *words_of("analyze {d}/run", prepared, "")])
    done = subprocess.run(
        f"rmdir ../gone; exec {words}", shell=True, cwd=gone, env=os.environ | {"KPREF_DEBUG": "0"},
        capture_output=True, text=True, timeout=LONGEST,
    )  # fmt: skip
    assert done.returncode == 2
    check_message(done.stderr, GONE, prepared, "")


@pytest.mark.parametrize(
    "environment, expected",
    [
        (
            {"KPREF_NUM_THREADS": "abc"},
            "the environment variable KPREF_NUM_THREADS must be a positive integer; got 'abc'",
        ),
        ({"MPLBACKEND": "nonsense"}, "matplotlib, which draws the figures, cannot be loaded: "),
    ],
)
def test_bad_environment(environment, expected, prepared, tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "kpref", "analyze", str(prepared / "run"), "--out", str(tmp_path / "out")],
        env={**os.environ, "KPREF_DEBUG": "0", **environment}, capture_output=True, text=True, timeout=LONGEST,
    )  # fmt: skip
    assert done.returncode == 2
    check_message(done.stderr.splitlines()[-1], expected, prepared, tmp_path / "out")
    assert "Traceback" not in done.stderr
    assert os.listdir(tmp_path) == []
