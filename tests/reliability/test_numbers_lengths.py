"""R15: responses that never end, end at once, are padding alone, or empty on one device or in one process.

Held to: what such responses must be (their length, whether they ended), numbers that are finite without any step being
skipped, as many updates as ever, and the same on every device. The policy's logits are forced by its parameters: its
last norm is a constant vector, and of the embeddings one token's alone lies along it, or against it.
"""

import dataclasses
import json
import pathlib
import sys
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.generation import RolloutSpec, SamplingSpec, sample_judged, sample_rollout
from rlhf_jax.learners import online, ppo
from rlhf_jax.learners.optimizer import make_optimizer
from rlhf_jax.learners.preference import PreferenceSpec
from rlhf_jax.learners.step import init_state
from rlhf_jax.models import DecoderSpec, init_decoder, init_reward_model
from rlhf_jax.parallel import MeshExecutor, PmapExecutor
from rlhf_jax.types import Params, Rollout
from tests.learners import tiny
from tests.reliability.conftest import Tally

DECODER = DecoderSpec(
    vocab_size=tiny.VOCAB, width=16, depth=1, heads=2, kv_heads=1, mlp_width=24, norm="layer", positions="rotary"
)
STOP = 5  # where reading ends, of episodes that are cut
R = tiny.RESPONSE
# How the policy is made to answer: (token, sign of its logit), length of the response, share of those that ended.
CASES = {"never": ((tiny.EOS, -1), R, 0.0), "at once": ((tiny.EOS, 1), 1, 1.0), "padding": ((tiny.PAD, 1), R, 0.0)}


def forced(token: int, sign: int) -> Params:
    """A policy that (almost) always or never says ``token``, whatever stands before it."""
    params = init_decoder(DECODER, jax.random.key(2))
    embedding = params["embedding"].at[:, 0].set(0.0).at[token, 0].set(10.0 * sign)
    bias = jnp.zeros(DECODER.width).at[0].set(10.0)
    return {**params, "embedding": embedding, "final_norm": {"scale": jnp.zeros(DECODER.width), "bias": bias}}


def scored(seed: int) -> Params:
    return init_reward_model(DECODER, jax.random.key(seed))


ROLLING = RolloutSpec(
    policy=DECODER,
    reward=DECODER,
    reward_bounded=False,
    max_response=R,
    eos_id=tiny.EOS,
    pad_id=tiny.PAD,
    sampling=SamplingSpec(temperature=1.0),
    missing_eos_score=-1.0,
)
PPO = ppo.PPOSpec(policy=DECODER, value=DECODER, epochs=2, minibatches=2)
# Settings of an iteration: the rollout's and the learner's.
SETTINGS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "gae": ({}, {"normalize_value": True, "rewards": ppo.RewardRules(scale=True, whiten=True)}),
    "rloo, unfinished left out": (
        {"keeps_finished": True, "missing_eos_score": None},
        {"advantage": "rloo", "value": None, "group": 4, "mask_unfinished": True},
    ),
    "fixed, read to a stop": (
        {"fixed": True, "stop_id": STOP, "stop_after": 2, "keeps_finished": True},
        {"advantage": "reinforce_pp", "value": None, "stop_kl": 0.5, "loss_mean": "sequences"},
    ),
    "gae, score after": ({"value_after": True}, {"rewards": ppo.RewardRules(score_at="after")}),
    "grpo": ({}, {"advantage": "grpo", "value": None, "group": 4, "kl": ppo.KLSpec(controller="adaptive")}),
}


def one_iteration(name: str) -> Any:
    """(parameters of the policy) -> (state before, state after, metrics, rollout) of an iteration of PPO."""
    rolling_changes, changes = SETTINGS[name]
    rolling, spec = dataclasses.replace(ROLLING, **rolling_changes), dataclasses.replace(PPO, **changes)
    rolling = dataclasses.replace(rolling, value=spec.value)
    optimizer = ppo.make_ppo_optimizer(tiny.OPTIMIZER, tiny.OPTIMIZER if spec.value else None)
    prompts = jax.tree.map(jnp.asarray, tiny.prompt_batch(0))

    @jax.jit
    def roll(params: Params) -> Rollout:
        reference = jax.tree.map(lambda x: x * 0.9, params["policy"])
        units = {"reward_bias": jnp.float32(0.0), "reward_gain": jnp.float32(1.0)}
        value = params.get("value")
        return sample_rollout(
            rolling, params["policy"], value, reference, scored(4), prompts, jax.random.key(5), **units
        )

    update = jax.jit(partial(ppo.update, spec, optimizer, tiny.EOS))

    def run(policy: Params) -> Any:
        params = {"policy": policy} | ({"value": scored(3)} if spec.value else {})
        extra = {"kl_coefficient": jnp.float32(0.1), **ppo.running_moments(spec)}
        state = init_state(params, optimizer, jax.random.key(11), extra)
        rollout = roll(params)
        return state, *update(state, rollout), rollout

    return run


def assert_sound(after: Any, metrics: dict[str, jax.Array], updates: float | None) -> None:
    figures = {name: float(value) for name, value in metrics.items()}
    assert all(np.isfinite(value) for value in figures.values()), figures
    assert (figures["skipped"], figures["not_finite"]) == (0.0, 0.0)
    assert updates is None or figures["updates"] == updates
    for leaf in jax.tree.leaves((after.params, after.extra)):
        assert np.isfinite(np.asarray(leaf)).all()


@pytest.mark.reliability("R15", tries=9, torture=15)
def test_ppo_on_responses_of_the_shortest_and_the_longest(tally: Tally) -> None:
    runs: dict[str, Any] = {}
    for number in tally.tries:
        name, (case, (how, length, ended)) = list(SETTINGS)[number // 3], list(CASES.items())[number % 3]
        with tally.one(f"{name}: {case}"):
            run = runs.setdefault(name, None) or runs.setdefault(f"{name}!", one_iteration(name))
            state, after, metrics, rollout = run(forced(*how))
            lengths = np.asarray(rollout.response_mask).sum(axis=1)
            if SETTINGS[name][0].get("fixed"):
                assert set(lengths) == {R}, "of a fixed episode all tokens are the policy's"
            else:
                assert set(lengths) == {length}
                assert float(metrics["eos_fraction"]) == ended
                assert float(metrics["length"]) == length
            if case == "padding":
                assert set(np.asarray(rollout.response_ids).ravel()) == {tiny.PAD}
            assert_sound(after, metrics, None if "stop_kl" in SETTINGS[name][1] else 4.0)
            assert int(after.step) == int(state.step) + 1
            if name.startswith("rloo") and ended == 0:  # nothing to learn from: no token, no gradient
                assert float(metrics["grad_norm"]) == 0.0
                assert float(metrics["loss"]) == 0.0


@pytest.mark.reliability("R15", tries=3, torture=6)
def test_online_learning_on_such_responses(tally: Tally) -> None:
    """Answers that are all alike are ties: nothing to prefer, a loss of 0."""
    made: dict[str, Any] = {}
    prompts = jax.tree.map(jnp.asarray, tiny.prompt_batch(0))
    optimizer = make_optimizer(tiny.OPTIMIZER)

    def compiled(method: str) -> Any:
        spec = online.OnlineSpec(PreferenceSpec(DECODER), samples=4, method=method, epochs=2, minibatches=2)

        @jax.jit
        def iteration(state: Any) -> Any:
            reference = jax.tree.map(lambda x: x * 0.9, state.params)
            rollout = sample_judged(ROLLING, state.params, reference, scored(4), prompts, jax.random.key(5))
            return online.update(spec, optimizer, tiny.EOS, state, rollout)

        return iteration

    for number in tally.tries:
        method, (case, (how, length, ended)) = ("preference", "expert")[number // 3], list(CASES.items())[number % 3]
        with tally.one(f"{method}: {case}"):
            made[method] = made.get(method) or compiled(method)
            state = init_state(forced(*how), optimizer, jax.random.key(11))
            after, metrics = made[method](state)
            assert_sound(after, metrics, None)
            assert int(after.step) == 1
            assert (float(metrics["length"]), float(metrics["eos_fraction"])) == (length, ended)


@pytest.mark.reliability("R15", tries=4, torture=4)
def test_empty_responses_on_one_device_or_on_all(tally: Tally) -> None:
    """No token at all, which the rollout itself never makes: the same update, and the same on every device."""
    spec, optimizer = dataclasses.replace(tiny.ppo_spec(), kl=ppo.KLSpec()), tiny.ppo_optimizer()
    rollout = tiny.fixed_rollout(0)
    for number in tally.tries:
        make, rows = (MeshExecutor, PmapExecutor)[number // 2], (tiny.EPISODES // 2, tiny.EPISODES)[number % 2]
        with tally.one(f"{make.__name__}: {rows} empty of {tiny.EPISODES}"):
            executor = make(jax.devices()[:2])
            update = executor.compile(partial(ppo.update, spec, optimizer, tiny.EOS), ("state", "rows"), KINDS)
            mask = np.array(rollout.response_mask)
            mask[:rows] = False
            blank = {name: np.where(mask, getattr(rollout, name), 0) for name in ("logprobs", "ref_logprobs", "values")}
            given = dataclasses.replace(rollout, response_mask=mask, **blank)
            state = executor.place(tiny.ppo_state(optimizer), "state")
            after, metrics = update(state, executor.place(given, "rows"))
            assert_sound(after, metrics, 4.0)
            assert float(metrics["length"]) == pytest.approx(mask.sum() / len(mask))
            if rows == tiny.EPISODES:
                assert float(metrics["grad_norm"]) == 0.0
            for leaf in jax.tree.leaves((after.params, metrics)):
                shards = [np.asarray(one.data) for one in leaf.addressable_shards]
                assert all(np.array_equal(shards[0], one) for one in shards)


KINDS = ("state", "replicated")


@pytest.mark.reliability("R15", tries=0, torture=1)
def test_two_processes_of_which_ones_responses_all_end_at_once(tmp_path: pathlib.Path, tally: Tally) -> None:
    """The other's never end. Both come to the end of the run, with the same steps."""
    from tests.multiprocess.conftest import run_together

    for _ in tally.tries:
        with tally.one("two processes"):
            workdir = tmp_path / "run"
            ended = run_together("tests.reliability.test_numbers_lengths", 2, f"--workdir={workdir}")
            assert [one.code for one in ended] == [0, 0], ended[0].err + ended[1].err
            rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
            own = [row["metrics"] for row in rows if row["stage"] == "ppo" and "eos_fraction" in row["metrics"]]
            assert [row["eos_fraction"] for row in own] == [0.5] * len(own)
            assert len(own) == 4
            assert all(isinstance(value, float) for row in own for value in row.values()), "a word is none"
            assert [row["skipped"] for row in own] == [0.0] * 4


def _process() -> None:
    """One of the two: of each rollout the first half of the rows ends at once, the others go on to the last slot."""
    import rlhf_jax.generation.rollout as rolling
    from tests.end_to_end import tiny as runs

    generate = rolling.generate

    def halves(*arguments: Any, eos_id: int, **rest: Any) -> Any:
        found = generate(*arguments, eos_id=-1, **rest)
        first = jnp.arange(found.ids.shape[0])[:, None] < found.ids.shape[0] // 2
        slot = jnp.arange(found.ids.shape[1])[None, :]
        other = jnp.where(found.ids == eos_id, eos_id + 1, found.ids)
        ids = jnp.where(first, jnp.where(slot == 0, eos_id, rest["pad_id"]), other)
        mask = found.mask & (~first | (slot == 0))
        return type(found)(ids, mask, jnp.where(mask, found.logprobs, 0.0))

    rolling.generate = halves
    config = f"--config={runs.ROOT / 'configs' / 'quickstart.py'}"
    runs.launch(config, *runs.PIPELINE, "--config.stages=sft,reward,ppo", *sys.argv[1:], report=False)


if __name__ == "__main__":
    _process()
