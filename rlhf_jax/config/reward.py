"""The reward-model stages."""

import math
from collections.abc import Iterator

from ml_collections import ConfigDict

from rlhf_jax.config.groups import optimizer, utility
from rlhf_jax.config.names import QUANTILE_EPSILON, UNBOUNDED, UTILITIES, WORLD_PROMPT_TYPES
from rlhf_jax.config.rules import (
    ANY,
    BOOL,
    COUNT,
    NATURAL,
    NOT_NEGATIVE,
    POSITIVE,
    Rule,
    did_you_mean,
    missing_file,
    one_of,
    one_of_or_own,
)


def add_defaults(c: ConfigDict) -> None:
    """Put the section into a configuration."""
    c.reward = ConfigDict()
    c.reward.steps = 1400  # updates
    c.reward.batch_size = 8  # ranked lists per update, over all devices
    c.reward.accumulate = 1  # parts in which the lists of an update are worked on; divides the lists of each device
    c.reward.init = "sft"  # sft: start from the SFT checkpoint; scratch: from random parameters;
    #                        reward: from another run's reward model, config.parents.reward_start
    c.reward.train = "all"  # what learns: all, or head (alone, on the decoder that it starts from)
    c.reward.bounded = "auto"  # rewards in [0, 1] by a sigmoid: yes, no, or auto (no only if every utility is
    #                            log_sigmoid, the only one defined on all gaps, or the loss is no utility's)
    c.reward.loss = "utility"  # of comparisons: utility, plackett_luce, rao_kupper or davidson (the last two know ties)
    c.reward.top_k = 0  # plackett_luce: the choices of the best k alone; 1: softmax best-of-K; 0: all
    c.reward.tie = 0.5  # rao_kupper: threshold, in units of reward; davidson: weight of a tie; both above 0
    c.reward.label_smoothing = 0.0  # utility: share of comparisons taken to be wrong, below 1/2
    c.reward.margin = 0.0  # utility: units of reward per unit of a pair's margin in the data; 0: margins are ignored
    c.reward.centering = 0.0  # weight of (2 (mean reward of a list - centre))^2, the centre 0 or of [0, 1] its middle
    c.reward.weights = ConfigDict()  # of the kinds of feedback in the loss; a list with several kinds sums them
    c.reward.weights.ranks = 1.0  # comparisons; 0: not trained on
    c.reward.weights.labels = 1.0  # verdicts in [0, 1] on single responses, by cross-entropy; 0: not trained on
    c.reward.weights.scores = 0.0  # scalar scores, by regression; 0: not trained on
    c.reward.scores = ConfigDict()
    c.reward.scores.low = 0.0  # score that becomes reward 0
    c.reward.scores.high = 1.0  # score that becomes reward 1
    c.reward.scores.huber = 0.0  # error, in reward, beyond which the loss is linear; 0: squares throughout
    c.reward.annotator_weights = ConfigDict()  # annotator -> what his or her lists count for; others count for 1
    c.reward.utility = utility("negative_power")  # of prompt types not named in utility_by_type
    c.reward.utility_by_type = ConfigDict()  # prompt type -> the same keys: prompt-aware
    c.reward.balance_utilities = False  # divide each utility by U(1) - U(0): the same best rewards, but
    #                                     no prompt type's gradients drown those of the others
    c.reward.optimizer = optimizer(1e-3, warmup=20)
    c.reward.eval_every = 700  # steps between evaluations on held-out data
    c.reward.ensemble = ConfigDict()
    c.reward.ensemble.members = 1  # reward models trained at once; 1: no ensemble
    c.reward.ensemble.kind = "models"  # models: they share nothing but the data; heads: one decoder, a head each
    c.reward.ensemble.bootstrap = False  # each member counts each list Poisson(1) times instead of once
    c.reward.eval_train = 0  # training lists scored at each evaluation too: the first of each prompt type in turn


# Of the decimal logarithm of a slope. Scores reach 10^6, gradients are squared, and float32 ends at 3 x 10^38.
STEEPEST = 12

RULES: dict[str, Rule] = {
    "reward.init": one_of("sft", "scratch", "reward"),
    "reward.train": one_of("all", "head"),
    "reward.bounded": one_of("auto", "yes", "no"),
    "reward.eval_train": NATURAL,
    "reward.loss": one_of("utility", "plackett_luce", "rao_kupper", "davidson"),
    "reward.top_k": NATURAL,
    "reward.tie": POSITIVE,
    "reward.label_smoothing": Rule(lambda v: 0 <= v < 0.5, "in [0, 0.5)"),
    "reward.margin": NOT_NEGATIVE,
    "reward.centering": NOT_NEGATIVE,
    "reward.weights.*": NOT_NEGATIVE,
    "reward.annotator_weights.*": NOT_NEGATIVE,
    "reward.scores.huber": NOT_NEGATIVE,
    "reward.scores.*": ANY,
    "reward.ensemble.kind": one_of("models", "heads"),
    "reward.ensemble.bootstrap": BOOL,
    "reward.balance_utilities": BOOL,
    "reward.utility*.name": one_of_or_own(*UTILITIES),
    "reward.utility*.extension": one_of("tangent", "shift"),
    "reward.utility*": ANY,  # the ranges depend on the name: _utility_problems
    "reward.*": COUNT,
}


def problems(c: ConfigDict) -> Iterator[tuple[str, str]]:
    """Keys and reasons of combinations that cannot be."""
    for kind in c.reward.utility_by_type:
        if not c.data.path and kind not in WORLD_PROMPT_TYPES:
            hint = did_you_mean(kind, WORLD_PROMPT_TYPES)
            yield (
                f"reward.utility_by_type.{kind}",
                f"the embedded world has the prompt types open and closed{hint}",
            )
    yield from _utility_problems(c.reward)
    if c.reward.ensemble.bootstrap and c.reward.ensemble.members == 1:
        yield "reward.ensemble.bootstrap", "True would go unused: config.reward.ensemble.members is 1"
    yield from _head_problems(c)
    yield from _feedback_problems(c.reward)


def _head_problems(c: ConfigDict) -> Iterator[tuple[str, str]]:
    """A decoder that stays as it is must be worth keeping, and be one."""
    reward, stages = c.reward, {"reward", "reward_common"} & set(c.stages)
    if reward.train == "all" or not stages:
        return
    if reward.init == "scratch" and not c.model.path:
        yield "reward.train", "head, but config.reward.init=scratch: the decoder would stay random; use sft or reward"
    if reward.ensemble.members > 1 and reward.ensemble.kind == "models":
        yield "reward.train", "head, but whole models do not share a decoder; use config.reward.ensemble.kind=heads"
    if c.lora.rank and stages & set(c.lora.stages):
        yield "reward.train", "head, but config.lora.stages has the reward stage train by adapters in its decoder"


def _utility_problems(reward: ConfigDict) -> Iterator[tuple[str, str]]:
    named = {f"utility_by_type.{kind}": u for kind, u in reward.utility_by_type.items()}
    for key, u in {"utility": reward.utility, **named}.items():
        key = f"reward.{key}"
        own = ":" in u.name
        if missing_file(u.name):
            yield f"{key}.name", f"no such file: {missing_file(u.name)}"
        if u.name == "power" and not 0 < u.gamma <= 1:
            yield f"{key}.gamma", f"{u.gamma} is not allowed, must be in (0, 1] for power"
        if u.name == "negative_power" and u.gamma <= 0:
            yield f"{key}.gamma", f"{u.gamma} is not allowed, must be above 0 for negative_power"
        if u.name in ("log_sigmoid", "exponential") and u.sigma <= 0:
            yield f"{key}.sigma", f"{u.sigma} is not allowed, must be above 0 for {u.name}"
        for shape in ("a", "b") if u.name == "quantile" else ():
            if u[shape] <= 0:
                yield f"{key}.{shape}", f"{u[shape]} is not allowed, must be above 0 for quantile"
        if u.name in ("power", "negative_power", "log", "quantile") and u.epsilon <= 0:
            yield (
                f"{key}.epsilon",
                f"{u.epsilon} is not allowed, must be above 0 for {u.name} (infinite slope at 0)",
            )
        if u.name == "quantile" and u.epsilon > QUANTILE_EPSILON:
            yield (
                f"{key}.epsilon",
                f"{u.epsilon} is not allowed, must be at most {QUANTILE_EPSILON} for quantile, below its smallest gap",
            )
        if u.epsilon < 0:
            yield f"{key}.epsilon", f"{u.epsilon} is not allowed, must be at least 0"
        place, slope = _steepest(u)
        if slope > STEEPEST:
            yield (
                f"{key}.{place}",
                f"{u[place]} has {u.name} rise by 10^{slope:.0f} for one unit of reward, more than the "
                f"10^{STEEPEST} that float32 can train on",
            )
        if reward.bounded == "no" and reward.loss == "utility" and not own and u.name not in UNBOUNDED:
            yield (
                "reward.bounded",
                f"no, but config.{key}.name={u.name} needs rewards in [0, 1]; use auto or yes",
            )


def _steepest(u: ConfigDict) -> tuple[str, float]:
    """(the setting that decides on it, decimal logarithm of the slope at the knee) of a utility within its ranges."""
    if u.name in ("log_sigmoid", "exponential"):
        return "sigma", -math.log10(u.sigma)
    power = {"power": u.gamma, "negative_power": -u.gamma, "log": 0.0, "quantile": 0.0}.get(u.name)
    if power is None:
        return "epsilon", 0.0
    return "epsilon", math.log10(abs(power) or 1.0) + (power - 1) * math.log10(u.epsilon)


def _feedback_problems(reward: ConfigDict) -> Iterator[tuple[str, str]]:
    """Settings that would go unused, or could mean nothing, under the chosen loss."""
    ties = ("rao_kupper", "davidson")
    for key, default, losses in (
        ("top_k", 0, ("plackett_luce",)),
        ("tie", 0.5, ties),
        ("label_smoothing", 0.0, ("utility",)),
        ("margin", 0.0, ("utility",)),
        ("balance_utilities", False, ("utility",)),
    ):
        if reward[key] != default and reward.loss not in losses:
            yield f"reward.{key}", f"{reward[key]} would go unused: config.reward.loss is {reward.loss}"
        if reward[key] != default and not reward.weights.ranks:
            yield f"reward.{key}", f"{reward[key]} would go unused: config.reward.weights.ranks is 0"
    if reward.loss != "utility" and reward.utility_by_type:
        yield "reward.utility_by_type", f"would go unused: config.reward.loss is {reward.loss}"
    for key, default in (("low", 0.0), ("high", 1.0), ("huber", 0.0)):
        if reward.scores[key] != default and not reward.weights.scores:
            yield f"reward.scores.{key}", f"{reward.scores[key]} would go unused: config.reward.weights.scores is 0"
    if not any(reward.weights.values()):
        yield "reward.weights", "all 0: nothing would be trained on"
    if reward.scores.low >= reward.scores.high:
        yield "reward.scores.low", f"{reward.scores.low} is not below config.reward.scores.high={reward.scores.high}"
