"""Golden folders: what is exported, answered and judged; damaged and hostile ones."""

import json
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from apparatus.cases import emulate
from apparatus.offered import everything

import kpref
from kpref._locks import create_temporary_folder
from kpref.oracle import check_golden, export_golden, flow_backend, folder_backend, verify
from kpref.oracle.arithmetic import ARITHMETICS, get_arithmetic
from kpref.oracle.backend import OPERATORS, Backend
from kpref.oracle.grid import PROBLEMS
from kpref.oracle.problem import describe, rebuild, rounded
from tests.conftest import PROFILE, in_turn

TRAJECTORY = [operator for operator, (_, space) in OPERATORS.items() if space == "trajectory"]


def answer(folder, backend, operators=tuple(OPERATORS), dtype="float64"):
    """What the other side does: read the probes, write the answers."""
    for operator in operators:
        apply = getattr(backend, operator, None) or getattr(backend, operator.removesuffix("_T")).T
        with np.load(folder / "probes" / f"{operator}.npz") as file:
            answers = [np.asarray(apply(np.float64(probe))) for probe in file["probes"]]
        np.savez(folder / "answers" / f"{operator}.npz", answers=np.stack(answers).astype(dtype))


def exported(tmp_path, name="gru-weights", arithmetic="float64"):
    flow = PROBLEMS[name].build(seed=1)
    folder = tmp_path / f"{name}-{arithmetic}"
    export_golden(folder, flow, arithmetic, seed=2)
    return folder, rounded(flow, get_arithmetic(arithmetic))


@pytest.mark.parametrize("name", in_turn(PROBLEMS, 3))
def test_a_flow_survives_as_plain_data(name):
    flow = PROBLEMS[name].build()
    description, arrays = describe(flow)
    again = rebuild(json.loads(json.dumps(description)), arrays)
    assert repr(again.model) == repr(flow.model)
    np.testing.assert_array_equal(again.states, flow.states)
    np.testing.assert_array_equal(again.space.mu, flow.space.mu)
    ones = np.ones(flow.states.shape)
    np.testing.assert_array_equal(again.NTK(ones), flow.NTK(ones))


@pytest.mark.parametrize("arithmetic", ARITHMETICS)
def test_right_answers_pass_in_every_arithmetic(tmp_path, arithmetic):
    folder, flow = exported(tmp_path, arithmetic=arithmetic)
    backend = emulate(flow, get_arithmetic(arithmetic))
    answer(folder, everything(backend))
    np.savez(folder / "answers" / "states.npz", states=backend.states)
    np.savez(folder / "answers" / "metrics.npz", **{name: call() for name, call in backend.metrics.items()})
    report = check_golden(folder)
    assert report.passed, str(report)
    assert report.arithmetic == arithmetic
    assert {check.verdict for check in report.checks} == {"pass"}


def test_the_problem_is_what_the_arithmetic_holds(tmp_path):
    folder, flow = exported(tmp_path, arithmetic="bfloat16")
    arithmetic = get_arithmetic("bfloat16")
    with np.load(folder / "problem.npz") as file:
        for name in file.files:
            if name != "mu":
                assert file[name].dtype == np.float32
                np.testing.assert_array_equal(arithmetic.round(file[name]), file[name])
        np.testing.assert_array_equal(file["mu"], flow.space.mu)
    manifest = json.loads((folder / "manifest.json").read_text())
    assert (manifest["format"], manifest["version"]) == ("kpref-golden", 1)
    assert set(manifest["probes"]) == set(OPERATORS)
    readme = (folder / "README.md").read_text()
    assert "M = 135 parameters" in readme
    assert "weight_ih, weight_hh, bias_ih, bias_hh" in readme


def test_answers_at_the_folders_states_and_what_is_not_offered(tmp_path):
    folder, flow = exported(tmp_path)
    answer(folder, flow_backend(flow), ["P", "J_T"])
    report = check_golden(folder)
    assert report.passed
    verdicts = {check.identifier: check.verdict for check in report.checks}
    assert verdicts["states.residual"] == "not offered"
    assert verdicts["K.value"] == "not offered"
    assert verdicts["P.residual"] == verdicts["J_T.linearity"] == "pass"


# The folder treats all operators alike: a third of them, from each space to each.
@pytest.mark.parametrize("operator", [*OPERATORS] if PROFILE == "thorough" else [*OPERATORS][::3])
def test_a_wrong_answer_is_a_defect_of_its_operator(tmp_path, operator):
    folder, flow = exported(tmp_path)
    answer(folder, flow_backend(flow))
    file = folder / "answers" / f"{operator}.npz"
    answers = np.load(file)["answers"]
    answers[..., 1] *= 1 + 1e-9
    np.savez(file, answers=answers)
    assert operator in {check.operator for check in check_golden(folder).defects}


@pytest.mark.parametrize(
    "change, verdict, message",
    [
        (lambda a: a[:1], "defect", "1 answers to"),
        (lambda a: a[:, :1], "defect", "returned shape"),
        (lambda a: a.astype(complex), "defect", "complex"),
        (lambda a: np.full_like(a, np.nan), "defect", "returned nan"),
        (lambda a: np.full(a.shape, "a"), "defect", "numbers were expected"),
    ],
)
def test_unusable_answers_are_a_verdict(tmp_path, change, verdict, message):
    folder, flow = exported(tmp_path)
    answer(folder, flow_backend(flow), ["P"])
    file = folder / "answers" / "P.npz"
    np.savez(file, answers=change(np.load(file)["answers"]))
    [check] = [check for check in check_golden(folder).checks if check.identifier == "P.residual"]
    assert check.verdict == verdict
    assert message in check.message


def test_flat_answers_are_taken_for_tensors(tmp_path):
    folder, flow = exported(tmp_path)
    answer(folder, flow_backend(flow), ["P"])
    file = folder / "answers" / "P.npz"
    answers = np.load(file)["answers"]
    np.savez(file, answers=answers.reshape(len(answers), -1))
    assert check_golden(folder).passed


def test_another_seed_needs_another_export(tmp_path):
    folder, flow = exported(tmp_path)
    answer(folder, flow_backend(flow), ["P"])
    backend = folder_backend(folder)
    assert isinstance(backend, Backend)
    assert verify(backend, flow, seed=2).passed
    report = verify(backend, flow, seed=3)
    assert report.exit_status == 2
    assert "export anew" in str(report)


def test_an_answer_is_found_again_at_another_scale(tmp_path):
    folder, flow = exported(tmp_path)
    answer(folder, flow_backend(flow), ["P"])
    backend = folder_backend(folder)
    probe = np.load(folder / "probes" / "P.npz")["probes"][0]
    np.testing.assert_array_equal(backend("P", probe * 2.0**-30), flow.P(probe) * 2.0**-30)


def test_export_touches_no_folder_with_files(tmp_path):
    (tmp_path / "mine.txt").write_text("precious")
    flow = PROBLEMS["rnn-plain"].build()
    with pytest.raises(FileExistsError, match="not an empty folder"):
        export_golden(tmp_path, flow)
    with pytest.raises(FileExistsError, match="not an empty folder"):
        export_golden(tmp_path / "mine.txt", flow)
    assert [entry.name for entry in tmp_path.iterdir()] == ["mine.txt"]


def spoil_manifest(**changes):
    def spoil(folder):
        manifest = json.loads((folder / "manifest.json").read_text())
        (folder / "manifest.json").write_text(json.dumps({**manifest, **changes}))

    return spoil


def spoil_bytes(name, size):
    def spoil(folder):
        (folder / name).write_bytes((folder / name).read_bytes()[:size])

    return spoil


def with_pickle(folder):
    np.savez(folder / "answers" / "P.npz", answers=np.array([{}], dtype=object), allow_pickle=True)


@pytest.mark.parametrize(
    "spoil, message",
    [
        (spoil_manifest(format="other"), "not the manifest"),
        (spoil_manifest(version=2), "version 2; this kpref reads version 1"),
        (spoil_manifest(problem={"model": "transformer"}), "incomplete or of another kind"),
        (spoil_manifest(problem=None), "incomplete or of another kind"),
        (spoil_manifest(arithmetic="float8"), "float8"),
        (spoil_bytes("manifest.json", 30), "not the manifest"),
        (spoil_bytes("problem.npz", 500), "damaged"),
        (spoil_bytes("probes/P.npz", 500), "damaged"),
        (lambda folder: (folder / "answers" / "P.npz").write_text("hello"), "not an npz file"),
        (lambda folder: np.savez(folder / "answers" / "P.npz", wrong=np.ones(3)), "no entry 'answers'"),
        (lambda folder: np.savez(folder / "answers" / "P.npz", answers=1.0), "single number"),
        (with_pickle, "cannot be read"),
    ],
)
def test_damaged_folders_are_one_clear_error(tmp_path, spoil, message):
    folder, flow = exported(tmp_path)
    spoil(folder)
    with pytest.raises(ValueError, match=message):
        check_golden(folder)


def test_no_folder_is_an_error_of_the_system(tmp_path):
    with pytest.raises(FileNotFoundError):
        check_golden(tmp_path / "nowhere")


def test_names_in_a_manifest_reach_no_other_file(tmp_path):
    folder, flow = exported(tmp_path)
    spoil_manifest(probes={"P": 3, "../../P": 1})(folder)
    answer(folder, flow_backend(flow), ["P"])
    assert check_golden(folder).passed


def test_only_the_oracles_own_networks_can_be_described():
    flow = PROBLEMS["rnn-plain"].build()

    class Other(type(flow.model)):
        pass

    other = replace(PROBLEMS["rnn-plain"]).build()
    other.model = Other(**flow.model.parameters)
    with pytest.raises(TypeError, match="only flows of .*gru.* can be handed"):
        describe(other)


FULL = """
import resource, sys
import numpy as np, kpref
from kpref.oracle.golden_files import export_golden
flow = kpref.Flow(kpref.models.RNN.init(2, 3, 0), np.ones((2, 3, 2)))
resource.setrlimit(resource.RLIMIT_FSIZE, (1500, 1500))
try:
    export_golden(sys.argv[1], flow)
except OSError as error:
    print(error.filename)
"""


@pytest.mark.skipif(os.name != "posix", reason="limits of files are POSIX")
def test_a_folder_that_cannot_be_written_whole_is_not_written(tmp_path):
    """A limit of the size of files stands for a full disk."""
    folder = tmp_path / "new" / "golden"
    done = subprocess.run([sys.executable, "-c", FULL, str(folder)], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == str(folder / "problem.npz"), done.stderr
    assert os.listdir(folder.parent) == []


@pytest.mark.skipif(os.name != "posix", reason="locks are POSIX")
def test_what_dead_exports_left_is_removed_and_nothing_else(tmp_path):
    flow = kpref.Flow(kpref.models.RNN.init(2, 3, 0), np.ones((2, 3, 2)))
    dead, lock = create_temporary_folder(tmp_path, ".golden.kpref-golden-")
    (dead / "new" / "probes").mkdir(parents=True)
    os.close(lock)
    alive, lock = create_temporary_folder(tmp_path, ".golden.kpref-golden-")
    report = tmp_path / ".golden.kpref-0123abcd"
    report.mkdir()
    (report / "lock").touch()
    (tmp_path / "golden").mkdir()
    export_golden(tmp_path / "golden", flow)
    os.close(lock)
    assert set(os.listdir(tmp_path)) == {"golden", alive.name, report.name}
    assert (tmp_path / "golden" / "manifest.json").is_file()
