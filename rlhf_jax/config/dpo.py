"""The stage of direct preference optimisation: the policy is trained on judged responses, without a reward model."""

from collections.abc import Iterator

from ml_collections import ConfigDict

from rlhf_jax.config.groups import optimizer
from rlhf_jax.config.names import DIRECT_DIVERGENCES, DIRECT_LOSSES
from rlhf_jax.config.rules import ANY, BOOL, COUNT, NOT_NEGATIVE, POSITIVE, Rule, missing_file, one_of, one_of_or_own

# Losses that compare log-probabilities alone, and those that are nothing without a reference.
FREE, BOUND = ("orpo", "simpo"), ("kto", "f_dpo", "chi_po")


def add_defaults(c: ConfigDict) -> None:
    """Put the section into a configuration."""
    c.dpo = ConfigDict()  # starts from the SFT policy, which is the reference too; lists as in the reward stage
    c.dpo.steps = 300  # updates
    c.dpo.batch_size = 16  # lists per update, over all devices
    c.dpo.accumulate = 1  # parts of an update whose gradients are summed one after the other
    c.dpo.loss = "dpo"  # dpo, rdpo, ipo, hinge (SLiC), kto, orpo, simpo, f_dpo, chi_po; docs/direct.md has them all
    c.dpo.beta = 0.1  # reward per nat of log-ratio; ipo: half the inverse of the gap aimed at; simpo: per nat and token
    c.dpo.label_smoothing = 0.0  # share of judgements taken to be wrong; dpo, f_dpo, simpo: cautious, rdpo: corrected
    c.dpo.divergence = "reverse_kl"  # f_dpo: the price of leaving the reference, one of reverse_kl, forward_kl,
    #                                  jensen_shannon, alpha, chi_po, hellinger, FILE.py:CLASS; others: unused
    c.dpo.alpha = 0.5  # of the divergence alpha, in (0, 1): near 0 the reverse KL, near 1 the forward KL
    c.dpo.gamma = 0.0  # simpo: the gap aimed at, in units of reward; others: unused
    c.dpo.nll = 0.0  # weight of the likelihood of the best responses beside the loss (RPO), in nats per response
    c.dpo.lambda_ = 0.1  # orpo: weight of the odds ratio beside the likelihood; others: unused
    c.dpo.desirable = 1.0  # kto: weight of good responses; others: unused
    c.dpo.undesirable = 1.0  # kto: weight of bad ones; others: unused
    c.dpo.clip = 1.0  # chi_po: the largest reward, R_max; gaps beyond twice that pull no further; others: unused
    c.dpo.margin = 0.0  # what the margins of the data are multiplied by, in units of reward
    c.dpo.length_normalized = False  # log-ratios and likelihoods per token; simpo and orpo always are
    c.dpo.lists = "all_pairs"  # all_pairs: the mean over them; plackett_luce: as a row of choices
    c.dpo.reference = "precomputed"  # precomputed: the reference's log-probabilities once, before the first step;
    #                                  on_the_fly: at each step; none: as if they were 0
    c.dpo.optimizer = optimizer(3e-4, warmup=20)
    c.dpo.eval_every = 100  # steps between evaluations on held-out data


RULES: dict[str, Rule] = {
    "dpo.loss": one_of(*DIRECT_LOSSES),
    "dpo.beta": POSITIVE,
    "dpo.label_smoothing": Rule(lambda v: 0 <= v < 0.5, "in [0, 0.5)"),
    "dpo.divergence": one_of_or_own(*DIRECT_DIVERGENCES),
    "dpo.alpha": Rule(lambda v: 0 < v < 1, "in (0, 1)"),
    "dpo.gamma": NOT_NEGATIVE,
    "dpo.nll": NOT_NEGATIVE,
    "dpo.lambda_": NOT_NEGATIVE,
    "dpo.desirable": NOT_NEGATIVE,
    "dpo.undesirable": NOT_NEGATIVE,
    "dpo.clip": POSITIVE,
    "dpo.margin": ANY,
    "dpo.length_normalized": BOOL,
    "dpo.lists": one_of("all_pairs", "plackett_luce"),
    "dpo.reference": one_of("precomputed", "on_the_fly", "none"),
    "dpo.*": COUNT,
}

# Settings that some losses alone read: their defaults, and those losses.
READERS: tuple[tuple[str, object, tuple[str, ...]], ...] = (
    ("label_smoothing", 0.0, ("dpo", "rdpo", "f_dpo", "simpo")),
    ("divergence", "reverse_kl", ("f_dpo",)),
    ("gamma", 0.0, ("simpo",)),
    ("nll", 0.0, tuple(one for one in DIRECT_LOSSES if one not in ("kto", "orpo"))),
    ("lambda_", 0.1, ("orpo",)),
    ("beta", 0.1, tuple(one for one in DIRECT_LOSSES if one != "orpo")),
    ("desirable", 1.0, ("kto",)),
    ("undesirable", 1.0, ("kto",)),
    ("clip", 1.0, ("chi_po",)),
    ("margin", 0.0, tuple(one for one in DIRECT_LOSSES if one != "kto")),
    ("length_normalized", False, ("dpo", "rdpo", "ipo", "hinge", "kto")),
    ("lists", "all_pairs", ("dpo", "f_dpo", "simpo")),
)


def used(c: ConfigDict) -> bool:
    """Whether some stage trains by a loss of this section."""
    return "dpo" in c.stages or ("online" in c.stages and c.online.method == "preference")


def problems(c: ConfigDict) -> Iterator[tuple[str, str]]:
    """Combinations that cannot be, and settings that would go unused."""
    if not used(c):
        return
    dpo = c.dpo
    for key, default, losses in READERS:
        if dpo[key] != default and dpo.loss not in losses:
            yield f"dpo.{key}", f"{dpo[key]} would go unused: config.dpo.loss is {dpo.loss}"
    if missing_file(dpo.divergence):
        yield "dpo.divergence", f"no such file: {missing_file(dpo.divergence)}"
    takes_alpha = dpo.loss == "f_dpo" and (dpo.divergence == "alpha" or ":" in dpo.divergence)
    if dpo.alpha != 0.5 and not takes_alpha:
        yield "dpo.alpha", f"{dpo.alpha} would go unused: neither loss f_dpo nor divergence alpha"
    if dpo.loss == "rdpo" and not dpo.label_smoothing:
        yield "dpo.label_smoothing", "0, but config.dpo.loss=rdpo corrects for a share of wrong judgements above 0"
    for key in ("gamma", "label_smoothing", "margin"):
        if dpo.lists == "plackett_luce" and dpo[key]:
            yield f"dpo.{key}", f"{dpo[key]} would go unused: it is of pairs, but config.dpo.lists is plackett_luce"
    if dpo.loss in FREE and dpo.reference != "none":
        yield "dpo.reference", f"{dpo.reference} would go unused: {dpo.loss} has no reference; set it to none"
    if dpo.loss in BOUND and dpo.reference == "none":
        yield "dpo.reference", f"none, but {dpo.loss} compares with a reference; use precomputed or on_the_fly"
    if dpo.loss == "kto" and not dpo.desirable and not dpo.undesirable:
        yield "dpo.desirable", "0, and so is config.dpo.undesirable: nothing would be trained on"
    if dpo.loss == "kto" and dpo.accumulate > 1:
        yield "dpo.accumulate", f"{dpo.accumulate}, but the baseline of kto is a mean over the whole update; use 1"
