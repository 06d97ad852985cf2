"""The stage of online preference learning: the policy is trained on its own answers, as a reward model judges them."""

from collections.abc import Iterator

from ml_collections import ConfigDict

from rlhf_jax.config.groups import optimizer
from rlhf_jax.config.ppo import aggregate_problems
from rlhf_jax.config.rules import COUNT, NATURAL, Rule, one_of


def add_defaults(c: ConfigDict) -> None:
    """Put the section into a configuration."""
    c.online = ConfigDict()  # sampling, the rule for missing ends and the aggregate of an ensemble are those of
    #                          config.ppo, the loss of method preference is that of config.dpo
    c.online.iterations = 30  # each samples, ranks and trains
    c.online.prompts_per_iteration = 32  # different prompts per iteration, over all devices
    c.online.samples_per_prompt = 4  # answers to each prompt, a list
    c.online.method = "preference"  # preference: the loss of config.dpo on the lists as the reward ranks them;
    #                                 expert: the likelihood of each list's best answer (best-of-n distillation)
    c.online.reference_every = 0  # iterations after which the policy becomes the reference; 0: never (expert: unused)
    c.online.epochs = 2  # passes over an iteration's lists
    c.online.minibatches = 2  # updates per pass; divides prompts_per_iteration
    c.online.optimizer = optimizer(3e-4, warmup=10)
    c.online.eval_every = 10  # iterations between evaluations on held-out prompts


RULES: dict[str, Rule] = {
    "online.method": one_of("preference", "expert"),
    "online.reference_every": NATURAL,
    "online.samples_per_prompt": Rule(lambda v: v >= 2, "at least 2"),
    "online.*": COUNT,
}


def problems(c: ConfigDict) -> Iterator[tuple[str, str]]:
    """Combinations that cannot be, and settings that would go unused."""
    online = c.online
    if "online" not in c.stages:
        return
    if online.prompts_per_iteration % online.minibatches:
        yield (
            "online.minibatches",
            f"{online.minibatches} does not divide prompts_per_iteration = {online.prompts_per_iteration}",
        )
    if not c.ppo.dense.sequence or c.ppo.dense.models:
        yield "ppo.dense", "fine-grained reward models are of PPO alone; online ranks by the reward model"
    if c.ppo.missing_eos.rule == "mask":
        yield "ppo.missing_eos.rule", "mask is of PPO alone; online ranks every answer"
    if c.online.method == "preference":
        if c.dpo.loss == "kto":
            yield "dpo.loss", "kto learns from verdicts, but online has rankings; use another loss"
        if c.dpo.reference == "on_the_fly" and "dpo" not in c.stages:
            yield "dpo.reference", "on_the_fly would go unused: of new answers it is no choice; use precomputed"
        if c.dpo.margin and "dpo" not in c.stages:
            yield "dpo.margin", f"{c.dpo.margin} would go unused: rankings by a reward model have no margins"
        if online.reference_every and c.dpo.reference == "none":
            yield "online.reference_every", f"{online.reference_every} would go unused: config.dpo.reference is none"
    elif online.reference_every:
        yield "online.reference_every", f"{online.reference_every} would go unused: config.online.method is expert"
    if "reward" in c.stages:
        yield from aggregate_problems(c, c.reward.ensemble.members)
