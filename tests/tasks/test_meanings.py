"""What each task asks for, held against plain loops over its noiseless inputs, or against laws of the answer."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kpref import Flow, Trials, tasks
from kpref.data import EXAMPLES, example_folder

durations = st.integers(1, 6) | st.tuples(st.integers(1, 3), st.integers(3, 6))
seeds = st.integers(0, 2**32)


def existing(trials):
    return np.arange(trials.n_steps) < trials.lengths[:, None]


class TestDelayedResponse:
    @pytest.mark.parametrize("name", ["memory_pro", "memory_anti", "delay_pro", "delay_anti"])
    @given(seed=seeds, stimulus=durations, delay=durations | st.just(0), response=durations)
    def test_the_direction_is_reported_when_the_fixation_goes_off(self, name, seed, stimulus, delay, response):
        draw = getattr(tasks, name)
        trials = draw(4, seed=seed, stimulus=stimulus, delay=delay, response=response, noise=0.0)
        for inputs, targets, length in zip(trials.inputs, trials.targets, trials.lengths, strict=True):
            go = int(inputs[:, 0].sum())
            assert 0 < go < length
            shown, answer = inputs[0, 1:], targets[go, 1:]
            assert np.hypot(*shown) == pytest.approx(1, abs=1e-15)
            assert np.array_equal(answer, -shown if "anti" in name else shown)
            seen = int((inputs[:, 1:] != 0).any(axis=1).sum())
            assert seen == length if "delay" in name else seen <= go
            for step in range(trials.n_steps):
                there = step < length
                assert np.array_equal(inputs[step, 1:], shown if step < seen else [0, 0])
                assert inputs[step, 0] == targets[step, 0] == (step < go)
                assert np.array_equal(targets[step, 1:], answer if go <= step and there else [0, 0])

    def test_the_mixed_task_does_what_its_context_tells(self):
        trials = tasks.mixed(8, seed=2, noise=0.0)
        assert (trials.n_steps, trials.n_inputs) == (120, 7)  # 30 steps of context, and 90
        for trial, name in enumerate(trials.conditions):
            told = trials.inputs[trial, :, 3:]
            assert [tasks.TASKS["mixed"].inputs[3:][channel] for channel in np.flatnonzero(told[0])] == [name]
            assert (told[:30] == told[0]).all()
            assert not told[30:].any()
            assert not trials.inputs[trial, :30, 1:3].any()
            assert (trials.inputs[trial, :30, 0] == 1).all()
            angle = np.arctan2(trials.inputs[trial, 30, 2], trials.inputs[trial, 30, 1])
            angles = np.full(1, angle)
            alone = getattr(tasks, name)(1, angles=angles, noise=0.0)
            # The cosine of the arctangent of a cosine: a few roundings of numbers below pi.
            assert np.abs(trials.inputs[trial, 30:, :3] - alone.inputs[0]).max() < 1e-15
            assert np.abs(trials.targets[trial, 30:] - alone.targets[0]).max() < 1e-15

    @pytest.mark.parametrize("name", EXAMPLES)
    def test_the_bundled_trials_are_those_of_the_task(self, name):
        bundled = Trials.load(example_folder(name) / "trials.npz")
        trials = tasks.memory_pro(100, angles=2 * np.pi * np.arange(100) / 100, noise=0.0)
        # Angles of up to 2 pi that were rounded to float32 twice, and their cosines once.
        bound = (2 * 2 * np.pi + 1) * 2.0**-24
        assert np.abs(bundled.inputs - trials.inputs).max() < bound
        assert np.abs(bundled.targets - trials.targets).max() < bound

    def test_angles_are_spread_over_the_circle(self):
        """Of 4,000 uniform angles the mean direction is about 1 / sqrt(4,000) long, in either coordinate half that."""
        targets = tasks.memory_pro(4000, seed=1, stimulus=1, delay=0, response=1).targets[:, -1, 1:]
        assert np.hypot(*targets.mean(axis=0)) < 5 / np.sqrt(4000)

    @pytest.mark.parametrize("angles", [[0.0, 1.0], [[0.0]] * 3, [0.0, 1.0, np.nan], "abc"])
    def test_angles_that_are_none(self, angles):
        with pytest.raises(ValueError, match="angles must|angles holds"):
            tasks.memory_pro(3, angles=angles)


class TestFlipFlop:
    @given(seed=seeds, steps=durations, bits=st.integers(1, 4), chance=st.floats(0, 1), initial=st.booleans())
    def test_the_target_is_the_last_pulse(self, seed, steps, bits, chance, initial):
        options = {"steps": steps, "bits": bits, "probability": chance, "initial_pulses": initial, "noise": 0.0}
        for draw in (tasks.flip_flop, tasks.flip_flop_anti):
            trials = draw(5, seed=seed, **options)
            pulses = trials.inputs[:, :, :bits]
            assert set(np.unique(pulses)) <= {-1, 0, 1}
            if initial:
                assert (pulses[:, 0] != 0).all()
            for trial in range(5):
                sign = -1 if trials.conditions is not None and trials.conditions[trial] == "anti" else 1
                held = np.zeros(bits)
                for step in range(trials.lengths[trial]):
                    held = np.where(pulses[trial, step] != 0, pulses[trial, step], held)
                    assert np.array_equal(trials.targets[trial, step], sign * held)
                    if draw is tasks.flip_flop_anti:
                        assert trials.inputs[trial, step, bits] == sign
            assert not trials.inputs[~existing(trials)].any()
            assert not trials.targets[~existing(trials)].any()

    def test_pulses_are_as_frequent_as_was_asked(self):
        pulses = tasks.flip_flop(100, seed=1, noise=0.0).inputs[:, 1:] != 0
        # The mean of n independent draws of chance p is known to sqrt(p (1 - p) / n): five times that.
        assert pulses.mean() == pytest.approx(0.05, abs=5 * np.sqrt(0.05 * 0.95 / pulses.size))

    @pytest.mark.parametrize(
        "options, expected",
        [
            ({"probability": 1.5}, "probability must be a finite number of at least 0 and at most 1; got 1.5"),
            ({"bits": 0}, "bits must be an integer of at least 1; got 0"),
            ({"noise": -1}, "noise must be a finite number of at least 0; got -1"),
        ],
    )
    def test_numbers_out_of_range(self, options, expected):
        with pytest.raises(ValueError, match=expected):
            tasks.flip_flop(3, **options)


class TestDecisions:
    @given(seed=seeds, stimulus=durations, delay=durations | st.just(0), decision=durations)
    def test_the_sign_of_the_evidence(self, seed, stimulus, delay, decision):
        periods = {"stimulus": stimulus, "delay": delay, "decision": decision, "fixation": 2}
        trials = tasks.perceptual_decision(10, seed=seed, noise=0.0, **periods)
        assert sorted(trials.conditions) == [-16, -8, -4, -2, -1, 1, 2, 4, 8, 16]
        for trial in range(10):
            evidence = trials.inputs[trial, :, 0]
            assert set(evidence[evidence != 0]) == {0.032 * trials.conditions[trial]}
            self.check_decision(trials, trial, np.sign(evidence.sum()), after=np.flatnonzero(evidence)[-1])

    @given(seed=seeds, stimulus=durations, context=durations | st.just(0), decision=durations)
    def test_the_sign_of_the_evidence_that_the_context_names(self, seed, stimulus, context, decision):
        periods = {"stimulus": stimulus, "context": context, "decision": decision}
        trials = tasks.context_integration(6, seed=seed, noise=0.0, **periods)
        for trial in range(6):
            color, motion, by_color, by_motion = trials.inputs[trial].T
            assert by_color.any() == (trials.conditions[trial] == "color") != by_motion.any()
            counts = color if by_color.any() else motion
            last = np.flatnonzero(by_color + by_motion)[-1]
            assert np.flatnonzero(color)[-1] == np.flatnonzero(motion)[-1] <= last
            self.check_decision(trials, trial, np.sign(counts.sum()), after=last)

    def test_the_streams_of_evidence_are_independent(self):
        trials = tasks.context_integration(400, seed=1, noise=0.0)
        color, motion = np.sign(trials.inputs.sum(axis=1)[:, :2]).T
        # The mean product of 400 independent signs is about 1 / sqrt(400): five times that.
        assert abs((color * motion).mean()) < 5 / 20

    @given(seed=seeds, delay=durations | st.just(0), decision=durations)
    def test_whether_two_stimuli_were_the_same(self, seed, delay, decision):
        trials = tasks.delayed_match(8, seed=seed, sample=3, delay=delay, test=2, decision=decision, noise=0.0)
        for trial in range(8):
            shown = np.flatnonzero(trials.inputs[trial].any(axis=1))
            assert len(shown) == 5
            letters = ["AB"[int(trials.inputs[trial, step].argmax())] for step in shown]
            assert letters[0] == letters[1] == letters[2]
            assert letters[3] == letters[4]
            assert trials.conditions[trial] == f"{letters[0]}-{letters[4]}"
            self.check_decision(trials, trial, 1 if letters[0] == letters[4] else -1, after=shown[-1])

    @staticmethod
    def check_decision(trials, trial, choice, after):
        """It is asked for at the end of the trial, nothing else counts, and it comes when the evidence is over."""
        counted = np.flatnonzero(trials.mask[trial])
        assert counted[0] > after
        assert counted.tolist() == list(range(counted[0], trials.lengths[trial]))
        assert set(trials.mask[trial, counted]) == {1}
        target = trials.targets[trial, :, 0]
        assert (target[counted] == choice).all()
        assert not target[: counted[0]].any()

    @pytest.mark.parametrize("coherences", [[], [0, 1], [[1]], [1.5], "abc", 3, None])
    @pytest.mark.parametrize("draw", [tasks.perceptual_decision, tasks.context_integration])
    def test_coherences_that_are_none(self, draw, coherences):
        with pytest.raises(ValueError, match="coherences must"):
            draw(3, coherences=coherences)


class TestSines:
    @given(seed=seeds, steps=st.integers(3, 40), dt=st.floats(0.01, 1), waves=st.integers(1, 51))
    def test_they_solve_the_equation_of_their_frequency(self, seed, steps, dt, waves):
        """``y[n + 1] + y[n - 1] = 2 cos(omega dt) y[n]``, y[0] = 0, y[1] = sin(omega dt)."""
        trials = tasks.sine_generation(5, seed=seed, steps=steps, dt=dt, waves=waves)
        omega = 0.04 * 51 * (trials.inputs[:, 0, 0] - 0.25) + 0.1
        assert omega == pytest.approx(0.04 * trials.conditions + 0.1, abs=1e-14)
        y = trials.targets[:, :, 0]
        # Phases of up to 40 * 2.14, rounded: half an ulp of 64 is 2^-47, and each of three sines has it.
        error = y[:, 2:] + y[:, :-2] - 2 * np.cos(omega * dt)[:, None] * y[:, 1:-1]
        assert np.abs(error).max() < 8 * 2.0**-47
        assert not y[:, 0].any()
        assert y[:, 1] == pytest.approx(np.sin(omega * dt), abs=1e-14)
        assert (trials.inputs == trials.inputs[:, :1]).all()

    def test_there_are_as_many_as_were_asked_for(self):
        assert np.array_equal(np.unique(tasks.sine_generation(102).conditions), np.arange(1, 52))
        assert np.unique(tasks.sine_generation(60, waves=3).conditions).tolist() == [1, 26, 51]
        assert np.unique(tasks.sine_generation(60, waves=1).conditions).tolist() == [1]
        with pytest.raises(ValueError, match="waves must be an integer of at least 1 and at most 51; got 52"):
            tasks.sine_generation(3, waves=52)


def test_a_line_attractor_holds_numbers_between_0_and_1():
    trials = tasks.line_attractor(5, seed=1, stimulus=3, delay=(0, 4), response=2, values=2, noise=0.0)
    for inputs, targets, length in zip(trials.inputs, trials.targets, trials.lengths, strict=True):
        held = inputs[0, 1:]
        assert ((held > 0) & (held < 1)).all()
        assert (inputs[:3, 1:] == held).all()
        assert not inputs[3:, 1:].any()
        assert (inputs[: length - 2, 0] == 1).all()
        assert not inputs[length - 2 :, 0].any()
        assert np.array_equal(targets[:, 0], inputs[:, 0])
        assert (targets[length - 2 : length, 1:] == held).all()
        assert not targets[: length - 2, 1:].any()


class TestLowRankForecast:
    def test_a_latent_number_that_stays_is_seen_as_one(self):
        """In one dimension Q is 1 or -1, z' = z or 0.6 z: so all inputs rest, or all of them approach sin(b)."""
        trials = tasks.low_rank_forecast(3, steps=60, latent=1, dimension=4, n_inputs=5, n_outputs=2, noise=0.0)
        rests = np.ptp(trials.inputs, axis=1).max() < 1e-14
        # Else what is left after 60 steps is 0.6^60 = 5e-14 of numbers of some 10, the same in all trials.
        assert rests or np.ptp(trials.inputs[:, -1], axis=0).max() < 1e-11

    def test_targets_are_of_the_step_that_follows(self):
        """By loops over the formulas of the docstring; numbers are drawn in the order in which it names them."""
        sizes = {"steps": 3, "n_inputs": 4, "n_outputs": 5, "latent": 2, "dimension": 3}
        trials = tasks.low_rank_forecast(2, seed=1, system_seed=2, noise=0.0, **sizes)
        system = np.random.default_rng(2)
        turn, seen = np.linalg.qr(system.standard_normal((2, 2)))[0], system.standard_normal((3, 2))
        (v_in, b_in), (v_out, b_out) = (
            (system.standard_normal((size, 3)), system.standard_normal(size)) for size in (4, 5)
        )
        for trial, z in enumerate(np.random.default_rng(1).standard_normal((2, 2))):
            for step in range(3):
                after = 0.8 * z + 0.2 * turn @ z
                # Sines of sums of at most 3 numbers of some 10.
                assert trials.inputs[trial, step] == pytest.approx(np.sin(v_in @ (seen @ z) + b_in), abs=1e-13)
                assert trials.targets[trial, step] == pytest.approx(np.sin(v_out @ (seen @ after) + b_out), abs=1e-13)
                z = after

    def test_the_system_is_one_for_all_seeds_and_has_its_own(self):
        """Few latent dimensions: inputs and targets of new trials lie near those of trials that were seen."""
        options = {"latent": 1, "dimension": 1, "n_inputs": 4, "n_outputs": 4, "noise": 0.0, "steps": 1}
        seen, new, other = (
            tasks.low_rank_forecast(4000, seed=seed, system_seed=system, **options)
            for seed, system in ((0, 0), (1, 0), (0, 1))
        )
        curve = np.concatenate([seen.inputs, seen.targets], axis=2)[:, 0]

        def distance(trials):
            points = np.concatenate([trials.inputs, trials.targets], axis=2)[:20, 0]
            return np.median(np.linalg.norm(points[:, None] - curve, axis=2).min(axis=1))

        assert distance(new) < 0.01 < 0.1 < distance(other)

    def test_numbers_out_of_range(self):
        with pytest.raises(ValueError, match="dimension must be an integer of at least 10; got 9"):
            tasks.low_rank_forecast(3, dimension=9)


class TestTeachers:
    @pytest.mark.parametrize(
        "draw, make",
        [
            (tasks.teacher_linear, tasks.linear_teacher),
            (tasks.teacher_tanh, tasks.tanh_teacher),
            (tasks.teacher_fixed_points, tasks.fixed_point_teacher),
        ],
    )
    def test_a_student_that_is_the_teacher_makes_no_error(self, draw, make):
        teacher, trials = make(teacher_seed=4), draw(5, seed=1, teacher_seed=4)
        outputs = teacher.readout(Flow(teacher.model, trials).states)
        # Roundings of 2^-53 grow by at most the gain, 1.2, in each of 40 steps: by 1,500.
        assert outputs == pytest.approx(trials.targets, abs=1e-11)
        other = draw(5, seed=1, teacher_seed=5)
        of_teacher = draw is tasks.teacher_tanh  # whose inputs lie in a subspace
        assert np.array_equal(other.inputs, trials.inputs) != of_teacher
        assert np.abs(other.targets - trials.targets).max() > 0.1

    def test_inputs_of_few_dimensions(self):
        inputs = tasks.teacher_tanh(20, rank=3).inputs.reshape(-1, 16)
        values = np.linalg.svd(inputs, compute_uv=False)
        assert values[2] > 0.1 * values[0]
        assert values[3] < 1e-13 * values[0]
        # Mean square lengths of 800 vectors of chi-square with 3 degrees over 3: sqrt(2 / 3 / 800) exact.
        assert np.square(inputs).sum(axis=1).mean() == pytest.approx(1, abs=5 * np.sqrt(2 / 3 / 800))

    def test_the_tanh_teacher_is_orthogonal_but_for_its_gain(self):
        weight = tasks.tanh_teacher(gain=1.2).model.parameters["weight_hh"]
        assert weight @ weight.T == pytest.approx(1.44 * np.eye(64), abs=1e-13)

    @pytest.mark.parametrize("points, states", [(1, 16), (5, 64), (30, 96)])
    def test_planted_points_are_fixed_and_attract(self, points, states):
        teacher = tasks.fixed_point_teacher(points, n_states=states, teacher_seed=points)
        model, planted = teacher.model, teacher.fixed_points
        assert planted.shape == (points, states)
        stepped = model.step(planted, np.zeros((points, points)))
        # Sums of products of 0.9 and entries of W, whose rows have a norm of about 1, through a slope of 0.19.
        assert np.abs(stepped - planted).max() < 1e-13
        # The Jacobian is diag(1 - x^2) W, and all entries of all points have one modulus.
        radius = 0.19 * np.abs(np.linalg.eigvals(model.parameters["weight_hh"])).max()
        assert radius == pytest.approx(0.19 * np.arctanh(0.9) / 0.9, rel=1e-6) or points == 1
        assert radius < 0.32
        assert np.abs(planted) == pytest.approx(0.9 * np.ones(planted.shape), abs=1e-15)
        mirrored = model.step(-planted, np.zeros((points, points)))
        assert np.abs(mirrored + planted).max(axis=1).min() > 0.5

    def test_trials_end_at_the_points_that_they_are_sent_to(self):
        trials = tasks.teacher_fixed_points(30, seed=1, points=6)
        teacher = tasks.fixed_point_teacher(6)
        ends = teacher.readout(teacher.fixed_points)[trials.conditions - 1]
        # Within 35 steps without input: 0.32^35 is 5e-18.
        assert trials.targets[:, -1] == pytest.approx(ends, abs=1e-12)
        assert not trials.inputs[:, 5:].any()
        pushed = tasks.teacher_fixed_points(30, seed=1, points=6, noise=0.0).inputs[:, :5]
        assert np.array_equal(pushed.argmax(axis=2), np.repeat(trials.conditions[:, None] - 1, 5, axis=1))
        assert (pushed.sum(axis=2) == 1).all()

    def test_without_planted_points_the_teacher_forgets(self):
        trials = tasks.teacher_fixed_points(5, points=0, response=80)
        assert trials.conditions is None
        # Within 80 steps of a gain of one half.
        assert np.abs(trials.targets[:, -1]).max() < 1e-9 < np.abs(trials.targets[:, 0]).max()

    def test_more_points_than_can_be_planted(self):
        with pytest.raises(ValueError, match="points must be at most a third of n_states = 64; got 22"):
            tasks.teacher_fixed_points(5, points=22)


class TestDigits:
    def test_they_are_those_of_the_file(self):
        """Sums and counts as scikit-learn's ``load_digits`` has them."""
        train, test = tasks.digits(1500), tasks.digits(297, part="test")
        assert 16 * (train.inputs.sum() + test.inputs.sum()) == 561718
        labels = np.concatenate([train.labels, test.labels])
        assert np.bincount(labels).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
        assert train.inputs.min() == 0
        assert train.inputs.max() == 1
        seen = {image.tobytes() for image in train.inputs}
        assert not any(image.tobytes() in seen for image in test.inputs)
        # The split is no easier than one by chance, of which a class has 297 / 10 +- 5 of the images to test on.
        assert np.abs(np.bincount(test.labels) - 29.7).max() < 3 * 5.2

    def test_rows_come_from_the_top(self):
        """The ink of a seven is at its top and bottom in the middle columns; of ones, the column means are one peak."""
        train = tasks.digits(1500)
        seven, four = (train.inputs[train.labels == digit].mean(axis=0) for digit in (7, 4))
        assert seven[0].sum() > 1.5 * four[0].sum()  # a bar at the top, where a four has the tip of a stroke

    def test_trials_are_drawn_without_replacement(self):
        train = tasks.digits(1500, seed=1)
        again = tasks.digits(1500, seed=2)
        order = [np.lexsort(trials.inputs.reshape(1500, 64).T) for trials in (train, again)]
        assert np.array_equal(train.inputs[order[0]], again.inputs[order[1]])
        assert np.array_equal(train.labels[order[0]], again.labels[order[1]])

    @pytest.mark.parametrize(
        "options, expected",
        [
            ({"n_trials": 1501}, "n_trials must be at most 1500, the images to train on; got 1501"),
            ({"n_trials": 298, "part": "test"}, "n_trials must be at most 297, the images to test on; got 298"),
            ({"part": "all"}, "part must be one of train, test; got 'all'"),
        ],
    )
    def test_more_than_there_are(self, options, expected):
        with pytest.raises(ValueError, match=expected):
            tasks.digits(**options)
