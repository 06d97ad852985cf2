"""The PPO stage."""

import os
from collections.abc import Iterator

from ml_collections import ConfigDict

from rlhf_jax.config.groups import optimizer
from rlhf_jax.config.names import ADVANTAGES, AGGREGATES, DIVERGENCES, GROUPED, OWN
from rlhf_jax.config.rules import (
    ANY,
    ANY_TEXT,
    BOOL,
    CLOSED_UNIT,
    COUNT,
    DECAY,
    NATURAL,
    NOT_NEGATIVE,
    OPEN_UNIT,
    POSITIVE,
    Rule,
    different,
    is_number,
    leaves,
    missing_file,
    one_of,
    one_of_or_own,
)

UNCERTAINTY, ALPHA, SCORE, ROWS, VALUE_RATE = 1.0, 0.5, -1.0, 8, 1e-3
PATIENCE, ACTION = 1, "warn"
CONTROLLER = {"target": 6.0, "horizon": 10_000}  # what a fixed price has no use for
DENSE = {"at": "parts", "value": "sign"}  # what would go unused without fine-grained reward models

# What is priced, and how; without a price all of it would go unused.
KL = {
    "divergence": "reverse_kl",
    "estimator": "k1",
    "placement": "reward",
    "level": "token",
    "importance": False,
    "controller": "fixed",
}

# What an estimator of the advantage has no use for, with the defaults. Those over whole responses do not discount.
_OF_VALUES = {
    "ppo.lambda_": 0.95,
    "ppo.value_clip": 0.2,
    "ppo.value_coefficient": 0.1,
    "ppo.value_learning_rate": VALUE_RATE,
    "ppo.value.network": "separate",
    "ppo.value.init": "reward",
    "ppo.value.normalize": False,
    "ppo.whiten_advantages": True,
}
_OF_TOKENS = {**_OF_VALUES, "ppo.gamma": 1.0}
UNUSED: dict[str, dict[str, object]] = {
    "gae": {"ppo.group_baseline": False},
    "reinforce": {**_OF_VALUES, "ppo.group_baseline": False},
    "reinforce_pp": _OF_VALUES,
    **{name: {**_OF_TOKENS, "ppo.group_baseline": False} for name in GROUPED},
}


def add_defaults(c: ConfigDict) -> None:
    """Put the section into a configuration."""
    c.ppo = ConfigDict()
    c.ppo.iterations = 40  # rollouts, each followed by epochs x minibatches updates
    c.ppo.prompts_per_iteration = 64  # different prompts per rollout, over all devices
    c.ppo.samples_per_prompt = 2  # responses to each prompt
    c.ppo.rollout_rows = 0  # responses sampled and scored at once, over all devices, which saves memory and changes
    #                         nothing; divides prompts_per_iteration x samples_per_prompt; 0: all
    c.ppo.unpad = "auto"  # padding is left out of all work but attention (docs/memory.md): yes, no or auto (where that
    #                       saves more than it compiles); on one device alone
    c.ppo.epochs = 4  # passes over a rollout
    c.ppo.minibatches = 4  # updates per pass; divides prompts_per_iteration x samples_per_prompt
    c.ppo.accumulate = 1  # parts in which the episodes of a minibatch are worked on; divides those of each device
    c.ppo.temperature = 1.0  # of sampling and of the policy's log-probabilities
    c.ppo.top_k = 0  # sample among this many most likely tokens; 0: all
    c.ppo.top_p = 1.0  # sample among the most likely tokens of this total probability; 1: all
    c.ppo.gamma = 1.0  # discount per token
    c.ppo.lambda_ = 0.95  # GAE's trade of bias (0) against variance (1)
    c.ppo.clip = 0.2  # the probability ratio's pull ends outside 1 - clip .. 1 + clip
    c.ppo.clip_high = 0.0  # the clip above 1; 0: the same
    c.ppo.advantage = "gae"  # gae (the one with a value model), reinforce, rloo, grpo, dr_grpo or reinforce_pp; gamma,
    #                          lambda_, value* and whiten_advantages are of those that have a use for them
    c.ppo.group_baseline = False  # reinforce_pp: less the mean of the prompt's own responses
    c.ppo.advantage_clip = 0.0  # advantages beyond +- this count as this; 0: never
    c.ppo.loss_mean = "tokens"  # over what losses are averaged: tokens (of a minibatch), sequences (each by its length
    #                             first) or constant (sums over max_response)
    c.ppo.stop_kl = 0.0  # nats per token by approx_kl: no update begins further from the sampling policy, the rest of
    #                      the iteration is skipped, so the schedules of the optimizer do not reach their end; 0: never
    c.ppo.entropy = 0.0  # reward per nat of the policy's entropy, as a bonus in the loss
    c.ppo.value_clip = 0.2  # the value's move per rollout, in units of reward; with value.normalize in deviations of
    #                         returns
    c.ppo.value_coefficient = 0.1  # weight of the value loss; the value network has an optimizer of its own,
    #                                so its pace is set by value_learning_rate, not by this
    c.ppo.value = ConfigDict()
    c.ppo.value.network = "separate"  # separate: a network of its own; shared: a head on the policy, and one optimizer
    c.ppo.value.init = "reward"  # reward: start as the reward model; zero: the SFT policy (or the shared one) with a
    #                              head that says 0
    c.ppo.value.normalize = False  # predict returns in units of their running mean and deviation; with init=zero
    c.ppo.kl = ConfigDict()
    c.ppo.kl.coefficient = 0.05  # reward lost per nat of KL to the SFT policy (adaptive: at first)
    c.ppo.kl.divergence = "reverse_kl"  # what is priced: reverse_kl, forward_kl, jensen_shannon, alpha, chi_squared,
    #                                     half_chi_squared, chi_po, hellinger, total_variation, or FILE.py:CLASS
    c.ppo.kl.alpha = ALPHA  # of the divergence alpha (or your own), in (0, 1): reverse KL towards 0, forward towards 1
    c.ppo.kl.estimator = "k1"  # of the divergence from sampled tokens, k1, k2 or k3, or exact: over the vocabulary
    c.ppo.kl.placement = "reward"  # where its price stands: reward, loss or both
    c.ppo.kl.level = "token"  # whose ratio of probabilities is priced: that of each token, or of the whole sequence
    c.ppo.kl.importance = False  # in the loss: times the ratio to the policy that sampled
    c.ppo.kl.controller = "fixed"  # fixed, or adaptive towards the target
    c.ppo.kl.target = CONTROLLER["target"]  # adaptive: nats per response
    c.ppo.kl.horizon = CONTROLLER["horizon"]  # adaptive: episodes over which the coefficient corrects itself
    c.ppo.whiten_advantages = True  # gae: to mean 0 and variance 1 over the whole rollout
    c.ppo.missing_eos = ConfigDict()
    c.ppo.missing_eos.rule = "replace"  # of unfinished responses: replace (their score is the one below), subtract (it
    #                                     is added to theirs), mask (they leave the loss) or none
    c.ppo.missing_eos.score = SCORE  # in units of reward; mask and none: unused
    c.ppo.truncate = ConfigDict()
    c.ppo.truncate.token = ""  # responses are read up to this token, and one without is unfinished; empty: up to the
    #                            end of sequence
    c.ppo.truncate.after = 0  # tokens before which it does not count
    c.ppo.episode = "until_eos"  # until_eos: up to where it is read; fixed: max_response tokens, and the policy learns
    #                              from all of them
    c.ppo.score_at = "last"  # where the score is paid: last (token read), after (the slot past it, which then has a
    #                          value too: gae alone) or end (of a fixed episode)
    c.ppo.dense = ConfigDict()  # fine-grained reward models, which pay at the last token of each part of a response
    c.ppo.dense.models = ()  # run directories with a stage segments, "this" for this run; empty: no such model
    c.ppo.dense.at = DENSE["at"]  # where they pay: parts (each at its last token), or end (all at that of the response)
    c.ppo.dense.value = DENSE["value"]  # reward of a part: sign (+1 good, -1 not), probability (of good) or logit
    c.ppo.dense.weights = ()  # KIND:WEIGHT, what the rewards of a kind are multiplied by; others count for 1
    c.ppo.dense.sequence = 1.0  # what the reward model's own rewards are multiplied by; 0: there need be no such model
    c.ppo.aggregate = "mean"  # of the members of a reward ensemble: mean, worst (least), uncertainty (mean - penalty x
    #                           variance) or lower (mean - penalty x standard deviation)
    c.ppo.uncertainty_penalty = UNCERTAINTY  # of uncertainty, per unit of reward, and of lower, in deviations;
    #                                          others: unused
    c.ppo.normalize_reward = False  # affine, to mean 0 and deviation 1 on samples of the SFT policy
    c.ppo.rewards = ConfigDict()
    c.ppo.rewards.models = ()  # RUN:WEIGHT, further reward models (stage reward of a run directory) whose rewards are
    #                            added, times the weight
    c.ppo.rewards.centre = False  # less the mean on samples of the SFT policy
    c.ppo.rewards.scale = "none"  # running_std: divided by the running deviation of all scores so far
    c.ppo.rewards.clip = 0.0  # rewards beyond +- this count as this, after scaling; 0: never
    c.ppo.rewards.whiten = False  # of tokens, price of divergence included: to variance 1 over a rollout, the mean left
    c.ppo.pretraining = ConfigDict()
    c.ppo.pretraining.coefficient = 0.0  # of the negative log-likelihood of demonstrations, per nat and token; 0: none
    c.ppo.pretraining.rows = ROWS  # packed rows of demonstrations in each update, over all devices
    c.ppo.monitor = ConfigDict()  # early warnings of over-optimisation (docs/overoptimisation.md); a bound of 0: none
    c.ppo.monitor.kl = 0.0  # above so many nats per response
    c.ppo.monitor.length = 0.0  # above so many times the length of the first iteration
    c.ppo.monitor.entropy = 0.0  # below so many times the entropy of the first iteration
    c.ppo.monitor.spread = 0.0  # above so many times the first spread of the members of a reward ensemble
    c.ppo.monitor.gap = 0.0  # above so many deviations that the reward of held-out answers gained more than their gold
    #                          did, at every evaluation; where gold is known
    c.ppo.monitor.patience = PATIENCE  # iterations on end, of gap evaluations
    c.ppo.monitor.action = ACTION  # warn, or stop: the iteration is the last one
    c.ppo.optimizer = optimizer(3e-4, warmup=20)  # of the policy
    c.ppo.value_learning_rate = VALUE_RATE  # peak, of the value network; its schedule is the policy's
    c.ppo.eval_every = 20  # iterations between evaluations on held-out prompts


RULES: dict[str, Rule] = {
    "ppo.temperature": POSITIVE,
    "ppo.rollout_rows": NATURAL,
    "ppo.unpad": one_of("auto", "yes", "no"),
    "ppo.top_k": NATURAL,
    "ppo.top_p": Rule(lambda v: 0 < v <= 1, "in (0, 1]"),
    "ppo.gamma": CLOSED_UNIT,
    "ppo.lambda_": CLOSED_UNIT,
    "ppo.clip": OPEN_UNIT,
    "ppo.value_clip": POSITIVE,
    "ppo.value_coefficient": NOT_NEGATIVE,
    "ppo.clip_high": NOT_NEGATIVE,
    "ppo.advantage": one_of(*ADVANTAGES),
    "ppo.group_baseline": BOOL,
    "ppo.advantage_clip": NOT_NEGATIVE,
    "ppo.loss_mean": one_of("tokens", "sequences", "constant"),
    "ppo.stop_kl": NOT_NEGATIVE,
    "ppo.entropy": NOT_NEGATIVE,
    "ppo.value.network": one_of("separate", "shared"),
    "ppo.value.init": one_of("reward", "zero"),
    "ppo.value.normalize": BOOL,
    "ppo.truncate.token": ANY_TEXT,
    "ppo.truncate.after": NATURAL,
    "ppo.episode": one_of("until_eos", "fixed"),
    "ppo.score_at": one_of("last", "after", "end"),
    "ppo.rewards.models": Rule(
        lambda v: all(":" in one and is_number(one.rpartition(":")[2]) for one in v) and different(v),
        "different run directories as RUN:WEIGHT, weights finite numbers",
    ),
    "ppo.rewards.scale": one_of("none", "running_std"),
    "ppo.rewards.clip": NOT_NEGATIVE,
    "ppo.rewards.whiten": BOOL,
    "ppo.rewards.centre": BOOL,
    "ppo.pretraining.coefficient": NOT_NEGATIVE,
    "ppo.kl.divergence": one_of_or_own(*DIVERGENCES),
    "ppo.kl.alpha": OPEN_UNIT,
    "ppo.kl.estimator": one_of("k1", "k2", "k3", "exact"),
    "ppo.kl.placement": one_of("reward", "loss", "both"),
    "ppo.kl.level": one_of("token", "sequence"),
    "ppo.kl.importance": BOOL,
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
    "ppo.missing_eos.rule": one_of("replace", "subtract", "mask", "none"),
    "ppo.missing_eos.score": ANY,
    "ppo.monitor.kl": NOT_NEGATIVE,
    "ppo.monitor.length": Rule(lambda v: v == 0 or v > 1, "0 or above 1"),
    "ppo.monitor.entropy": DECAY,
    "ppo.monitor.spread": Rule(lambda v: v == 0 or v > 1, "0 or above 1"),
    "ppo.monitor.gap": NOT_NEGATIVE,
    "ppo.monitor.action": one_of("warn", "stop"),
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
    if "ppo" in c.stages:
        yield from _dense_problems(c)
        yield from _advantage_problems(c)
        yield from _ending_problems(c)
        yield from _reward_problems(c)
        yield from _monitor_problems(c)
    if "reward" in c.stages and "ppo" in c.stages:
        yield from aggregate_problems(c, c.reward.ensemble.members)
    if c.ppo.uncertainty_penalty != UNCERTAINTY and c.ppo.aggregate in ("mean", "worst"):
        value = f"{c.ppo.uncertainty_penalty} would go unused: config.ppo.aggregate is {c.ppo.aggregate}"
        yield "ppo.uncertainty_penalty", value


def _dense_problems(c: ConfigDict) -> Iterator[tuple[str, str]]:
    dense = c.ppo.dense
    for model in dense.models:
        if model == OWN and "segments" not in c.stages:
            yield "ppo.dense.models", f"{OWN} is this run, but segments is not one of config.stages"
        if model != OWN and "://" not in model and not os.path.isdir(model):
            yield "ppo.dense.models", f"no such run directory: {model}"
    if not dense.models and not dense.sequence:
        yield "ppo.dense.sequence", "0, and config.ppo.dense.models names no other: nothing would be rewarded"
    if not dense.models:
        if dense.weights:
            yield "ppo.dense.weights", "would go unused: config.ppo.dense.models names no model"
        for key, default in DENSE.items():
            if dense[key] != default:
                yield f"ppo.dense.{key}", f"{dense[key]} would go unused: config.ppo.dense.models names no model"


def _advantage_problems(c: ConfigDict) -> Iterator[tuple[str, str]]:
    """What is wrong with estimators of the advantage, and with the value model."""
    ppo, value = c.ppo, c.ppo.value
    if ppo.clip_high >= 1 or (ppo.clip_high and ppo.clip_high == ppo.clip):
        yield "ppo.clip_high", f"{ppo.clip_high} is not in (0, 1), other than config.ppo.clip; 0 is the same as that"
    settings = dict(leaves(ppo, "ppo."))
    for key, default in UNUSED[ppo.advantage].items():
        if settings[key] != default:
            yield key, f"{settings[key]} would go unused: config.ppo.advantage is {ppo.advantage}"
    if (ppo.advantage in GROUPED or ppo.group_baseline) and ppo.samples_per_prompt < 2:
        yield "ppo.samples_per_prompt", "1, but the responses to a prompt are compared with each other; at least 2"
    if value.network == "shared" and value.init == "reward":
        yield "ppo.value.init", "reward, but a shared network starts as the policy; use zero"
    elif value.normalize and value.init == "reward":
        text = "True, but a value model that starts as the reward model says rewards, not deviations; use init=zero"
        yield "ppo.value.normalize", text
    if value.network == "shared" and ppo.value_learning_rate != VALUE_RATE:
        text = f"{ppo.value_learning_rate} would go unused: config.ppo.value.network is shared"
        yield "ppo.value_learning_rate", text
    if ppo.pretraining.rows != ROWS and not ppo.pretraining.coefficient:
        text = f"{ppo.pretraining.rows} would go unused: config.ppo.pretraining.coefficient is 0"
        yield "ppo.pretraining.rows", text
    if (
        ppo.pretraining.coefficient
        and "sft" not in c.stages
        and c.sft.row_length < c.data.max_prompt + c.data.max_response
    ):
        longest = f"config.data.max_prompt + max_response = {c.data.max_prompt + c.data.max_response} tokens"
        yield "sft.row_length", f"{c.sft.row_length} is less than {longest}, of which rows for pretraining are made"
    if ppo.kl.coefficient == 0:
        for key, default in KL.items():
            if ppo.kl[key] != default:
                yield f"ppo.kl.{key}", f"{ppo.kl[key]} would go unused: config.ppo.kl.coefficient is 0"
    if ppo.kl.controller == "fixed":
        for key, default in CONTROLLER.items():
            if ppo.kl[key] != default:
                yield f"ppo.kl.{key}", f"{ppo.kl[key]} would go unused: config.ppo.kl.controller is fixed"
    if missing_file(ppo.kl.divergence):
        yield "ppo.kl.divergence", f"no such file: {missing_file(ppo.kl.divergence)}"
    if ppo.kl.alpha != ALPHA and ppo.kl.divergence != "alpha" and ":" not in ppo.kl.divergence:
        yield "ppo.kl.alpha", f"{ppo.kl.alpha} would go unused: config.ppo.kl.divergence is {ppo.kl.divergence}"


def _ending_problems(c: ConfigDict) -> Iterator[tuple[str, str]]:
    """What is wrong with where responses end, and where their score is paid."""
    ppo, missing = c.ppo, c.ppo.missing_eos
    if missing.rule in ("mask", "none") and missing.score != SCORE:
        yield "ppo.missing_eos.score", f"{missing.score} would go unused: config.ppo.missing_eos.rule is {missing.rule}"
    if ppo.truncate.after and not ppo.truncate.token:
        yield "ppo.truncate.after", f"{ppo.truncate.after} would go unused: config.ppo.truncate.token is empty"
    if ppo.truncate.after >= c.data.max_response:
        text = f"{ppo.truncate.after} leaves none of config.data.max_response={c.data.max_response} tokens"
        yield "ppo.truncate.after", text
    if ppo.score_at == "end" and ppo.episode != "fixed":
        yield "ppo.score_at", "end is last, where config.ppo.episode is until_eos; use last, or fixed episodes"
    if ppo.score_at == "after" and ppo.advantage != "gae":
        text = f"after is a slot that config.ppo.advantage={ppo.advantage} does not read; use last, or gae"
        yield "ppo.score_at", text


def _reward_problems(c: ConfigDict) -> Iterator[tuple[str, str]]:
    """Further reward models that are not there, and what the reward of the stage's own is made of."""
    if c.ppo.normalize_reward and c.ppo.rewards.centre:
        yield "ppo.rewards.centre", "would go unused: config.ppo.normalize_reward centres rewards already"
    for key, asked in {"normalize_reward": c.ppo.normalize_reward, "rewards.centre": c.ppo.rewards.centre}.items():
        if asked and not c.ppo.dense.sequence:
            yield f"ppo.{key}", "True would go unused: config.ppo.dense.sequence is 0"
    for entry in c.ppo.rewards.models:
        run = entry.rpartition(":")[0]
        if "://" not in run and not os.path.isdir(run):
            yield "ppo.rewards.models", f"no such run directory: {run}"


def _monitor_problems(c: ConfigDict) -> Iterator[tuple[str, str]]:
    """Alarms without the figures that they read, and settings without an alarm."""
    monitor = c.ppo.monitor
    bounds = [key for key in monitor if key not in ("patience", "action")]
    for key, default in {"patience": PATIENCE, "action": ACTION}.items():
        if monitor[key] != default and not any(monitor[bound] for bound in bounds):
            text = f"{monitor[key]} would go unused: no bound of config.ppo.monitor is above 0"
            yield f"ppo.monitor.{key}", text
    if monitor.gap and c.data.path and not c.data.gold:
        yield "ppo.monitor.gap", f"{monitor.gap}, but gold is not known of config.data.path; name config.data.gold"


def aggregate_problems(c: ConfigDict, members: int) -> Iterator[tuple[str, str]]:
    """What is wrong with PPO's aggregate against a reward model of so many members."""
    if c.ppo.aggregate != "mean" and members == 1:
        yield "ppo.aggregate", f"{c.ppo.aggregate} would go unused: the reward model is no ensemble"
    if "ppo" in c.stages and c.ppo.monitor.spread and members == 1:
        yield "ppo.monitor.spread", f"{c.ppo.monitor.spread} would go unused: the reward model is no ensemble"
