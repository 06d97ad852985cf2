"""The stage of a reward model that first writes a critique."""

from collections.abc import Iterator

from ml_collections import ConfigDict

from rlhf_jax.config.groups import optimizer
from rlhf_jax.config.rules import COUNT, NATURAL, NOT_NEGATIVE, POSITIVE, Rule, one_of


def add_defaults(c: ConfigDict) -> None:
    """Put the section into a configuration."""
    c.critique = ConfigDict()  # a reward model that first writes a critique; utilities and the range of its rewards
    #                            are those of config.reward, whose other settings are not read
    c.critique.steps = 700  # updates
    c.critique.batch_size = 8  # ranked lists per update, over all devices
    c.critique.init = "sft"  # sft: start from the SFT checkpoint; scratch: from random parameters
    c.critique.separator = ":"  # text between response and critique; of words that the tokenizer knows
    c.critique.max_tokens = 16  # of a critique, its end-of-sequence token included; longer ones lose their end
    c.critique.source = "mixed"  # after which critiques rewards are read in training: data (those given), own (written
    #                              by the model itself), mixed (each response the one or the other by a coin)
    c.critique.first_steps = 350  # updates on the given critiques alone before any own; data: unused
    c.critique.lm_weight = 1.0  # weight of the given critiques' loss, nats per token, beside the ranking loss
    c.critique.temperature = 1.0  # of sampled critiques, in training and where samples is above 1
    c.critique.samples = 1  # critiques per response at evaluation: 1: the greedy one; more: sampled, rewards averaged
    c.critique.optimizer = optimizer(1e-3, warmup=20)
    c.critique.eval_every = 350  # steps between evaluations on held-out data


RULES: dict[str, Rule] = {
    "critique.init": one_of("sft", "scratch"),
    "critique.separator": Rule(lambda v: bool(v.strip()), "a text that is not blank"),
    "critique.max_tokens": Rule(lambda v: v >= 2, "at least 2 (one token and the end of sequence)"),
    "critique.source": one_of("data", "own", "mixed"),
    "critique.first_steps": NATURAL,
    "critique.lm_weight": NOT_NEGATIVE,
    "critique.temperature": POSITIVE,
    "critique.*": COUNT,
}


def problems(c: ConfigDict) -> Iterator[tuple[str, str]]:
    """Keys and reasons of combinations that cannot be."""
    if "critique" not in c.stages:
        return
    # No tokenizer makes more tokens of a text than it has bytes.
    separator = len(c.critique.separator.encode())
    longest = c.data.max_prompt + c.data.max_response + separator + c.critique.max_tokens
    if longest > c.model.max_positions:
        yield (
            "model.max_positions",
            f"{c.model.max_positions} is less than config.data.max_prompt + max_response + a separator of up to "
            f"{separator} + config.critique.max_tokens = {longest} tokens",
        )
    if c.reward.loss != "utility":
        yield "reward.loss", f"{c.reward.loss}, but the critique stage trains under a utility"
    if not c.reward.weights.ranks:
        yield "reward.weights.ranks", "0, but the critique stage trains on comparisons alone"
    if c.critique.source != "data" and c.critique.first_steps >= c.critique.steps:
        yield (
            "critique.first_steps",
            f"{c.critique.first_steps} leaves none of config.critique.steps={c.critique.steps} to the model's own "
            "critiques; lower it or set config.critique.source=data",
        )
