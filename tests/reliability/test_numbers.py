"""R8: what is not finite reaches neither parameters, nor moments, nor statistics, nor a checkpoint.

Held to: the bits before the step (parameters, optimizer, ``extra``), the step that would have come without it, and,
of whole runs, the bits of a run that nothing befell but the same bad numbers. Faults are put in by wrapping losses,
rollouts and batches; the program knows nothing of them.
"""

import contextlib
import dataclasses
import io
import json
import pathlib
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rlhf_jax.build.ppo
import rlhf_jax.build.reward
import rlhf_jax.build.sft
import rlhf_jax.learners.ppo
import rlhf_jax.run
from rlhf_jax.errors import BAD_NUMBERS
from rlhf_jax.learners import ppo, reward
from rlhf_jax.learners.optimizer import make_optimizer
from rlhf_jax.learners.step import LossSums, causes_of, init_state, train_step
from rlhf_jax.loop import Task
from rlhf_jax.metrics import read_jsonl, read_summary
from rlhf_jax.types import Rollout
from tests.end_to_end import tiny as runs
from tests.learners import tiny
from tests.reliability.conftest import Tally

BAD = (np.nan, np.inf, -np.inf)


def bits(*trees: Any) -> list[bytes]:
    leaves = jax.tree.leaves(trees)
    return [np.asarray(jax.random.key_data(x) if x.dtype == jax.random.key(0).dtype else x).tobytes() for x in leaves]


def sloped(sums: LossSums, params: Any, kind: jax.Array, value: jax.Array) -> LossSums:
    """With a loss (1) or a gradient (2) that is not finite, the other being what it was; 0: as it is."""
    leaf = jax.tree.leaves(params)[0].ravel()[0]
    # Of a root at 0 the value is 0 and the slope none.
    slope = jax.lax.cond(kind == 2, lambda x: jnp.sqrt(jnp.square(x) * 0.0), lambda x: x * 0.0, leaf)
    added = jnp.where(kind == 1, jax.lax.stop_gradient(value), 0.0) + slope
    return sums._replace(numerator=sums.numerator + added.astype(sums.numerator.dtype))


def stepping(learner: str) -> tuple[Callable[..., Any], Any, list[Any]]:
    """(compiled step of (state, batch, kind, value), first state, batches) of a learner of one update a batch."""
    loss, params, batches = tiny.sft_parts() if learner == "sft" else tiny.reward_parts()
    optimizer = make_optimizer(tiny.OPTIMIZER)

    @jax.jit
    def step(state: Any, batch: Any, kind: jax.Array, value: jax.Array) -> Any:
        def poisoned(params: Any, rows: Any) -> LossSums:
            if learner == "reward":  # kind 3: one reward of the model
                found = reward.list_rewards(loss.args[0], params, rows)
                found = found.at[0, 0].add(jnp.where(kind == 3, value, 0.0))
                sums = reward.loss_of_rewards(loss.args[0], found, rows)
            else:  # kind 3: one row's log-probabilities
                sums = loss(params, rows)
                factor = jnp.where(kind == 3, value, 1.0)
                sums = sums._replace(numerator=sums.numerator * factor)
            return sloped(sums, params, kind, value)

        return train_step(poisoned, optimizer, state, batch)

    return step, init_state(params, optimizer, jax.random.key(7)), batches


def assert_skipped(before: Any, after: Any, metrics: Any, *causes: str) -> None:
    assert bits(before.params, before.opt_state, before.extra) == bits(after.params, after.opt_state, after.extra)
    assert int(after.step) == int(before.step) + 1
    assert float(metrics["skipped"]) > 0
    found = causes_of(int(metrics["not_finite"]))
    assert set(causes) & set(found), found


@pytest.mark.reliability("R8", tries=9, torture=90)
@pytest.mark.parametrize("learner", ["sft", "reward"])
def test_a_bad_step_leaves_the_state_and_the_next_is_as_if_it_had_not_been(learner: str, tally: Tally) -> None:
    """Loss, gradient, and what the loss is made of; after a few good steps each time."""
    step, start, batches = stepping(learner)
    for number in tally.tries:
        kind, value, good = 1 + number % 3, BAD[number // 3 % 3], number // 9 % 4
        with tally.one(f"{learner}, kind {kind}, {value}, after {good} steps"):
            before = start
            for batch in batches[:good]:
                before, _ = step(before, batch, 0, 0.0)
            after, metrics = step(before, batches[good], kind, value)
            # A reward of infinity may have a loss, log sigma(infinity) = 0, but it has no gradient.
            assert_skipped(before, after, metrics, *{1: ("loss",), 2: ("gradient",), 3: ("loss", "gradient")}[kind])
            straight, _ = step(before, batches[4], 0, 0.0)
            later, metrics = step(after, batches[4], 0, 0.0)
            assert bits(straight.params, straight.opt_state) == bits(later.params, later.opt_state)
            assert (float(metrics["skipped"]), int(metrics["not_finite"])) == (0.0, 0)


@pytest.mark.reliability("R8", tries=3, torture=48)
def test_a_batch_with_a_bad_number_in_it(tally: Tally) -> None:
    """Of a list's weight, where data may bring one; of a list that nothing was said of it changes nothing."""
    step, start, batches = stepping("reward")
    judged = batches[0].better.any(axis=(1, 2))
    assert 0 < judged.sum() < len(judged)
    good, _ = step(start, batches[0], 0, 0.0)
    for number in tally.tries:
        with tally.one(f"list {number % 16}"):
            weight = batches[0].weight.copy()
            weight[number % 16] = BAD[number % 3]
            after, metrics = step(start, dataclasses.replace(batches[0], weight=weight), 0, 0.0)
            if judged[number % 16]:
                assert_skipped(start, after, metrics, "loss")
            else:
                assert bits(after.params, after.opt_state) == bits(good.params, good.opt_state)


# Of an iteration of PPO: the field of the rollout, and the cause that is named.
SPOILT = (
    ("scores", "reward"),
    ("raw_scores", "reward"),
    ("values", "value"),
    ("logprobs", "log-probability"),
    ("ref_logprobs", "log-probability"),
)
MARKS = {31: 1, 30: 2}  # an id in the padding of a prompt, and the kind of ``sloped`` for the minibatches that have it


def ppo_stepping() -> tuple[Callable[..., Any], Any, list[Rollout]]:
    spec, optimizer = tiny.ppo_spec(normalize_value=True, rewards=ppo.RewardRules(scale=True)), tiny.ppo_optimizer()
    real = ppo.loss_sums

    def poisoned(spec: Any, params: Any, batch: Any, **rest: Any) -> LossSums:
        first = jnp.where(batch.mask[:, 0], 0, batch.ids[:, 0])
        kind = sum(jnp.where(jnp.any(first == mark), kind, 0) for mark, kind in MARKS.items())
        return sloped(real(spec, params, batch, **rest), params, kind, jnp.float32(np.nan))

    state = tiny.ppo_state(optimizer)
    state = dataclasses.replace(state, extra=state.extra | ppo.running_moments(spec))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rlhf_jax.learners.ppo, "loss_sums", poisoned)
        step = jax.jit(partial(ppo.update, spec, optimizer, tiny.EOS)).lower(state, tiny.fixed_rollout(0)).compile()
    return step, state, [tiny.fixed_rollout(seed) for seed in range(2)]


@pytest.mark.reliability("R8", tries=17, torture=120)
def test_a_bad_episode_or_update_of_ppo(tally: Tally) -> None:
    """One bad number of one episode spoils them all; a bad minibatch is skipped alone."""
    step, start, rollouts = ppo_stepping()
    mask = np.asarray(rollouts[0].response_mask)
    padded = np.flatnonzero(~np.asarray(rollouts[0].prompt_mask)[:, 0])
    good, metrics = step(start, rollouts[0])
    straight, _ = step(good, rollouts[1])
    for number in tally.tries:
        with tally.one(f"number {number}"):
            assert (float(metrics["skipped"]), float(metrics["updates"])) == (0.0, 4.0)
            if number % 17 < 15:
                (field, cause), value = SPOILT[number % 5], BAD[number % 17 // 5]
                spoilt = np.array(getattr(rollouts[0], field))
                spoilt[number % len(spoilt)] = (
                    value if spoilt.ndim == 1 else np.where(mask[number % len(mask)], value, 0)
                )
                after, told = step(good, dataclasses.replace(rollouts[0], **{field: jnp.asarray(spoilt)}))
                assert_skipped(good, after, told, cause)
                assert (float(told["skipped"]), float(told["updates"])) == (4.0, 0.0)
                later, _ = step(after, rollouts[1])
                # The order of minibatches is by the step, which went on; statistics and price are those of before.
                assert bits(later.extra) == bits(straight.extra)
                continue
            mark, kind = list(MARKS.items())[number % 17 - 15]
            ids = np.array(rollouts[0].prompt_ids)
            ids[padded[number % len(padded)], 0] = mark
            after, told = step(good, dataclasses.replace(rollouts[0], prompt_ids=jnp.asarray(ids)))
            assert causes_of(int(told["not_finite"]))[0] == ("loss" if kind == 1 else "gradient")
            assert (float(told["skipped"]), float(told["updates"])) == (2.0, 2.0), "one minibatch of two, twice"
            assert all(np.isfinite(np.asarray(leaf)).all() for leaf in jax.tree.leaves((after.params, after.extra)))
            assert bits(after.params) != bits(good.params)
            ids[:, 0] = np.where(np.asarray(rollouts[0].prompt_mask)[:, 0], ids[:, 0], mark)
            after, told = step(good, dataclasses.replace(rollouts[0], prompt_ids=jnp.asarray(ids)))
            if float(told["skipped"]) == 4.0:
                assert bits(after.params, after.opt_state) == bits(good.params, good.opt_state)


# ------------------------------------------------------------------------------ whole runs

COMMAND = (
    f"--config={runs.ROOT / 'configs' / 'quickstart.py'}",
    *runs.PIPELINE,
    "--config.stages=sft,reward,ppo",
    "--config.log.every=3",
    "--config.log.samples=0",
    "--config.log.tensorboard=False",
)


class Killed(BaseException):
    """Nothing in the program may catch it."""


def bad_at(patch: pytest.MonkeyPatch, **steps: tuple[int, ...]) -> None:
    """Losses of these steps of sft and reward, and a reward of these iterations of ppo, are NaN."""

    def poisoned_step(stage: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def step(loss_sums: Any, optimizer: Any, state: Any, batch: Any, **rest: Any) -> Any:
            bad = jnp.any(state.step + 1 == jnp.asarray(steps.get(stage, (0,))))

            def poisoned(params: Any, rows: Any) -> LossSums:
                sums = loss_sums(params, rows)
                return sums._replace(numerator=sums.numerator * jnp.where(bad, jnp.nan, 1.0))

            return real(poisoned, optimizer, state, batch, **rest)

        return step

    for stage, module in (("sft", rlhf_jax.build.sft), ("reward", rlhf_jax.build.reward)):
        patch.setattr(module, "train_step", poisoned_step(stage, module.train_step))
    update = rlhf_jax.learners.ppo.update

    def poisoned_update(spec: Any, optimizer: Any, eos: int, state: Any, rollout: Rollout, *rest: Any, **more: Any):
        bad = jnp.any(state.step + 1 == jnp.asarray(steps.get("ppo", (0,))))
        scores = rollout.scores.at[0].set(jnp.where(bad, jnp.nan, rollout.scores[0]))
        return update(spec, optimizer, eos, state, dataclasses.replace(rollout, scores=scores), *rest, **more)

    patch.setattr(rlhf_jax.learners.ppo, "update", poisoned_update)


def watched(patch: pytest.MonkeyPatch, seen: dict[tuple[str, int], Any], die: tuple[str, int] = ("", 0)) -> None:
    """Note the batch of each step, and end the process before one."""
    make_task = rlhf_jax.run.make_task

    def make(context: Any, stage: str) -> Task:
        task = make_task(context, stage)

        def step(state: Any, batch: Any) -> Any:
            place = stage, int(state.step) + 1
            if place == die:
                raise Killed
            seen[place] = batch
            return task.step(state, batch)

        return dataclasses.replace(task, step=step)

    patch.setattr(rlhf_jax.run, "make_task", make)


def launched(
    workdir: pathlib.Path, bad: dict[str, tuple[int, ...]], *words: str, die: tuple[str, int] = ("", 0)
) -> tuple[int, dict[tuple[str, int], Any]]:
    """(exit code, -9 if it was killed; the batch of each step) of a run."""
    seen: dict[tuple[str, int], Any] = {}
    with pytest.MonkeyPatch.context() as patch:
        bad_at(patch, **bad)
        watched(patch, seen, die)
        try:
            runs.launch(*COMMAND, *words, f"--workdir={workdir}", report=False)
        except SystemExit as end:
            return int(end.code or 0), seen
        except Killed:
            return -9, seen
    return 0, seen


def assert_finite_checkpoints(workdir: pathlib.Path) -> None:
    for directory in sorted((workdir / "checkpoints").iterdir()):
        for name, leaf in runs.state_of(workdir, directory.name).items():
            assert leaf.dtype.kind != "f" or np.isfinite(leaf).all(), f"{directory.name}: {name}"


BEFALLEN = {"sft": (3,), "reward": (2, 3), "ppo": (2,)}
PLACES = [("sft", 4), ("reward", 4), ("ppo", 3), ("sft", 5), ("reward", 3), ("ppo", 2), ("reward", 6), ("ppo", 4)]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[pathlib.Path, dict[tuple[str, int], Any], str]:
    """A run with bad steps that is never killed: its folder, the batch of each step, what it printed."""
    workdir = tmp_path_factory.mktemp("whole") / "run"
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        code, seen = launched(workdir, BEFALLEN)
    assert code == 0, printed.getvalue()
    return workdir, seen, printed.getvalue()


@pytest.mark.reliability("R8", tries=2, torture=8)
def test_a_run_with_bad_steps_is_told_of_and_goes_on_bit_for_bit(
    whole: Any, tmp_path: pathlib.Path, tally: Tally
) -> None:
    """Rows of skipped.jsonl against the batches that the steps were given; killed after a skip, the same end."""
    workdir, seen, printed = whole
    for number in tally.tries:
        die = PLACES[number % len(PLACES)]
        with tally.one(f"killed before {die}"):
            assert_told(workdir, seen, printed)
            cut = tmp_path / f"cut{number}"
            assert launched(cut, BEFALLEN, die=die)[0] == -9
            assert launched(cut, BEFALLEN)[0] == 0
            runs.assert_same_state(workdir, cut, ("sft", "reward", "ppo"))
            assert runs.rows_of(cut) == runs.rows_of(workdir)
            assert (cut / "skipped.jsonl").read_text() == (workdir / "skipped.jsonl").read_text()
            assert read_summary(cut) == read_summary(workdir)


@pytest.mark.reliability("R8", tries=1, torture=2)
def test_rewards_that_are_not_finite_at_the_start_are_told_in_one_line(
    whole: Any,
    tmp_path: pathlib.Path,
    tally: Tally,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of the answers to held-out prompts by which PPO puts rewards into units of their own, before its first step."""
    real = rlhf_jax.build.ppo.score

    def poisoned(*arguments: Any, **more: Any) -> Rollout:
        rollout = real(*arguments, **more)
        return dataclasses.replace(rollout, raw_scores=rollout.raw_scores.at[0].set(jnp.nan))

    monkeypatch.setattr(rlhf_jax.build.ppo, "score", poisoned)
    words = [f"--config.parents.{name}={whole[0]}" for name in ("sft", "reward")]
    for number in tally.tries:
        with tally.one(f"try {number}"):
            line = runs.refused(
                capsys,
                *COMMAND,
                *words,
                "--config.stages=ppo",
                "--config.ppo.normalize_reward=True",
                f"--workdir={tmp_path / str(number)}",
            )
            assert "config.parents.reward: the reward model gives 2 of 32 answers to held-out prompts a reward" in line
            assert not (tmp_path / str(number) / "metrics.jsonl").exists()


def assert_told(workdir: pathlib.Path, seen: dict[tuple[str, int], Any], printed: str) -> None:
    rows = read_jsonl(workdir / "skipped.jsonl")
    assert [(row["stage"], row["step"]) for row in rows] == [(s, step) for s, all_ in BEFALLEN.items() for step in all_]
    for row in rows:
        batch = seen[row["stage"], row["step"]]
        name = {"sft": "rows", "reward": "lists", "ppo": "prompts"}[row["stage"]]
        assert row[name] == list(dict.fromkeys(np.asarray(batch.index).tolist()))
        assert len(row[name]) in (8, 16)
        assert row["batch"] == row["step"]
        assert ("reward" if row["stage"] == "ppo" else "loss") in row["not_finite"]
        assert f"{row['stage']} warning: step {row['step']} skipped, " in printed
    assert [row["in_a_row"] for row in rows] == [1, 1, 2, 1]
    summary = read_summary(workdir)
    assert [summary[f"{stage}.skipped"] for stage in BEFALLEN] == [1, 2, 1]
    assert_finite_checkpoints(workdir)


@pytest.mark.reliability("R8", tries=1, torture=4)
def test_too_many_skipped_on_end_give_the_run_up_with_65(
    tmp_path: pathlib.Path, tally: Tally, capsys: pytest.CaptureFixture[str]
) -> None:
    """Steps 3 to 6 of the reward model are bad, and two may be: step 5 is one too many. The checkpoint of step 4 knows
    of two, so that the run that goes on from it is given up at the same step; with a higher number it goes on.
    """
    bad = {"reward": (3, 4, 5, 6)}
    for number in tally.tries:
        with tally.one(f"run {number}"):
            workdir, stages = tmp_path / str(number), "--config.stages=sft,reward"
            for begun in range(2):
                code, seen = launched(workdir, bad, stages, "--config.guard.max_skipped=2")
                told = capsys.readouterr().err
                assert code == BAD_NUMBERS == 65
                assert max(step for stage, step in seen if stage == "reward") in (5, 6)
                assert min(step for stage, step in seen if stage == "reward") == (5 if begun else 1)
                status = json.loads((workdir / "STATUS.json").read_text())
                assert (status["state"], status["exit_code"]) == ("failed", 65)
                assert (status["stage"], status["step"]) == ("reward", 5)
                batch = seen["reward", 5]
                for word in ("reward: step 5", "3 steps on end", "batch 5", str(batch.index[0]), "max_skipped"):
                    assert word in status["reason"]
                    assert word in told
                assert told.count("\n") == 1
                assert runs.last_step(workdir, "reward") == 4
                assert_finite_checkpoints(workdir)
            assert launched(workdir, bad, stages, "--config.guard.max_skipped=4")[0] == 0
            assert read_summary(workdir)["reward.skipped"] == 4
            assert_finite_checkpoints(workdir)


@pytest.mark.reliability("R8", tries=2, torture=6)
def test_nothing_that_is_not_finite_is_ever_saved(tmp_path: pathlib.Path, tally: Tally) -> None:
    """Should it come into the state by another way: in parameters, moments or what else is kept."""
    make_task = rlhf_jax.run.make_task
    for number in tally.tries:
        part = ("params", "opt_state")[number % 2]

        def make(context: Any, stage: str, part: str = part) -> Task:
            task = make_task(context, stage)

            def step(state: Any, batch: Any) -> Any:
                state, out = task.step(state, batch)
                if int(state.step) == 3:
                    tree = getattr(state, part)
                    spoilt = jax.tree.map(lambda x: x * jnp.nan if x.dtype == jnp.float32 else x, tree)
                    state = dataclasses.replace(state, **{part: spoilt})
                return state, out

            return dataclasses.replace(task, step=step)

        with tally.one(part), pytest.MonkeyPatch.context() as patch:
            patch.setattr(rlhf_jax.run, "make_task", make)
            workdir = tmp_path / str(number)
            with pytest.raises(SystemExit) as end:
                runs.launch(*COMMAND, "--config.stages=sft", f"--workdir={workdir}", report=False)
            assert end.value.code == 65
            assert runs.last_step(workdir, "sft") == 2
            assert "not saved" in json.loads((workdir / "STATUS.json").read_text())["reason"]
            assert_finite_checkpoints(workdir)
