"""The PPO stage."""

import os
from collections.abc import Iterator

from ml_collections import ConfigDict

from rlhf_jax.config.groups import optimizer
from rlhf_jax.config.names import AGGREGATES, OWN
from rlhf_jax.config.rules import (
    ANY,
    BOOL,
    CLOSED_UNIT,
    COUNT,
    NATURAL,
    NOT_NEGATIVE,
    OPEN_UNIT,
    POSITIVE,
    Rule,
    different,
    is_number,
    one_of,
)

UNCERTAINTY = 1.0


def add_defaults(c: ConfigDict) -> None:
    """Put the section into a configuration."""
    c.ppo = ConfigDict()
    c.ppo.iterations = 40  # rollouts, each followed by epochs x minibatches updates
    c.ppo.prompts_per_iteration = 64  # different prompts per rollout, over all devices
    c.ppo.samples_per_prompt = 2  # responses to each prompt
    c.ppo.rollout_rows = 0  # responses sampled and scored at once, over all devices, which saves memory and changes
    #                         nothing; divides prompts_per_iteration x samples_per_prompt; 0: all
    c.ppo.epochs = 4  # passes over a rollout
    c.ppo.minibatches = 4  # updates per pass; divides prompts_per_iteration x samples_per_prompt
    c.ppo.accumulate = 1  # parts in which the episodes of a minibatch are worked on; divides those of each device
    c.ppo.temperature = 1.0  # of sampling and of the policy's log-probabilities
    c.ppo.top_k = 0  # sample among this many most likely tokens; 0: all
    c.ppo.top_p = 1.0  # sample among the most likely tokens of this total probability; 1: all
    c.ppo.gamma = 1.0  # discount per token
    c.ppo.lambda_ = 0.95  # GAE's trade of bias (0) against variance (1)
    c.ppo.clip = 0.2  # the probability ratio's pull ends outside 1 - clip .. 1 + clip
    c.ppo.value_clip = 0.2  # the value's move per rollout, in units of reward
    c.ppo.value_coefficient = 0.1  # weight of the value loss; the value network has an optimizer of its own,
    #                                so its pace is set by value_learning_rate, not by this
    c.ppo.kl = ConfigDict()
    c.ppo.kl.coefficient = 0.05  # reward lost per nat of KL to the SFT policy (adaptive: at first)
    c.ppo.kl.controller = "fixed"  # fixed, or adaptive towards the target
    c.ppo.kl.target = 6.0  # adaptive: nats per response
    c.ppo.kl.horizon = 10_000  # adaptive: episodes over which the coefficient corrects itself
    c.ppo.whiten_advantages = True  # to mean 0 and variance 1 over the whole rollout
    c.ppo.missing_eos = ConfigDict()
    c.ppo.missing_eos.rule = "replace"  # replace: unfinished responses get score; none: their own
    c.ppo.missing_eos.score = -1.0  # in units of reward
    c.ppo.dense = ConfigDict()  # fine-grained reward models, which pay at the last token of each part of a response
    c.ppo.dense.models = ()  # run directories with a stage segments, "this" for this run; empty: no such model
    c.ppo.dense.at = "parts"  # where they pay: parts (each at its last token), or end (all at that of the response)
    c.ppo.dense.value = "sign"  # reward of a part: sign (+1 good, -1 not), probability (of good) or logit
    c.ppo.dense.weights = ()  # KIND:WEIGHT, what the rewards of a kind are multiplied by; others count for 1
    c.ppo.dense.sequence = 1.0  # what the reward model's own rewards are multiplied by; 0: there need be no such model
    c.ppo.aggregate = "mean"  # of the members of a reward ensemble: mean, worst (least), uncertainty (mean - penalty x
    #                           variance) or lower (mean - penalty x standard deviation)
    c.ppo.uncertainty_penalty = UNCERTAINTY  # of uncertainty, per unit of reward, and of lower, in deviations;
    #                                          others: unused
    c.ppo.normalize_reward = False  # affine, to mean 0 and deviation 1 on samples of the SFT policy
    c.ppo.optimizer = optimizer(3e-4, warmup=20)  # of the policy
    c.ppo.value_learning_rate = 1e-3  # peak, of the value network; its schedule is the policy's
    c.ppo.eval_every = 20  # iterations between evaluations on held-out prompts


RULES: dict[str, Rule] = {
    "ppo.temperature": POSITIVE,
    "ppo.rollout_rows": NATURAL,
    "ppo.top_k": NATURAL,
    "ppo.top_p": Rule(lambda v: 0 < v <= 1, "in (0, 1]"),
    "ppo.gamma": CLOSED_UNIT,
    "ppo.lambda_": CLOSED_UNIT,
    "ppo.clip": OPEN_UNIT,
    "ppo.value_clip": POSITIVE,
    "ppo.value_coefficient": NOT_NEGATIVE,
    "ppo.kl.coefficient": NOT_NEGATIVE,
    "ppo.kl.controller": one_of("fixed", "adaptive"),
    "ppo.kl.target": POSITIVE,
    "ppo.kl.horizon": COUNT,
    "ppo.dense.models": Rule(lambda v: len(set(v)) == len(v) and all(v), "different run directories"),
    "ppo.dense.at": one_of("parts", "end"),
    "ppo.dense.value": one_of("sign", "probability", "logit"),
    "ppo.dense.weights": Rule(
        lambda v: all(is_number(one.rpartition(":")[2]) and ":" in one for one in v) and different(v),
        "different kinds as KIND:WEIGHT, weights finite numbers",
    ),
    "ppo.dense.sequence": NOT_NEGATIVE,
    "ppo.missing_eos.rule": one_of("replace", "none"),
    "ppo.missing_eos.score": ANY,
    "ppo.value_learning_rate": POSITIVE,
    "ppo.whiten_advantages": BOOL,
    "ppo.aggregate": one_of(*AGGREGATES),
    "ppo.uncertainty_penalty": NOT_NEGATIVE,
    "ppo.normalize_reward": BOOL,
    "ppo.*": COUNT,
}


def problems(c: ConfigDict) -> Iterator[tuple[str, str]]:
    """Keys and reasons of combinations that cannot be."""
    episodes = c.ppo.prompts_per_iteration * c.ppo.samples_per_prompt
    if "ppo" in c.stages and episodes % c.ppo.minibatches:
        yield (
            "ppo.minibatches",
            f"{c.ppo.minibatches} does not divide prompts_per_iteration x samples_per_prompt = {episodes}",
        )
    if c.ppo.rollout_rows and episodes % c.ppo.rollout_rows:
        yield (
            "ppo.rollout_rows",
            f"{c.ppo.rollout_rows} does not divide prompts_per_iteration x samples_per_prompt = {episodes}",
        )
    yield from _dense_problems(c)
    if "reward" in c.stages and "ppo" in c.stages:
        yield from aggregate_problems(c, c.reward.ensemble.members)
    if c.ppo.uncertainty_penalty != UNCERTAINTY and c.ppo.aggregate in ("mean", "worst"):
        value = f"{c.ppo.uncertainty_penalty} would go unused: config.ppo.aggregate is {c.ppo.aggregate}"
        yield "ppo.uncertainty_penalty", value


def _dense_problems(c: ConfigDict) -> Iterator[tuple[str, str]]:
    dense = c.ppo.dense
    if "ppo" not in c.stages:
        return
    for model in dense.models:
        if model == OWN and "segments" not in c.stages:
            yield "ppo.dense.models", f"{OWN} is this run, but segments is not one of config.stages"
        if model != OWN and "://" not in model and not os.path.isdir(model):
            yield "ppo.dense.models", f"no such run directory: {model}"
    if not dense.models and not dense.sequence:
        yield "ppo.dense.sequence", "0, and config.ppo.dense.models names no other: nothing would be rewarded"
    if dense.weights and not dense.models:
        yield "ppo.dense.weights", "would go unused: config.ppo.dense.models names no model"


def aggregate_problems(c: ConfigDict, members: int) -> Iterator[tuple[str, str]]:
    """What is wrong with PPO's aggregate against a reward model of so many members."""
    if c.ppo.aggregate != "mean" and members == 1:
        yield "ppo.aggregate", f"{c.ppo.aggregate} would go unused: the reward model is no ensemble"
