"""The KL-regularised optimum itself, on the sampled answers of each prompt, for one ranking under many reward laws."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from experiments.measures import beta_at_kl, entropy, kl, tilted
from experiments.policy_effect.sweep import BEST_OF, BETAS, EXACT_SEEDS, KLS, LAWS
from experiments.small import noisy_ranks, rewards_of, sample_answers, sample_lists, train
from rlhf_jax.diagnostics.best_of_n import best_of_n
from rlhf_jax.objectives.utilities import LimitLaw, Log, make_utility
from rlhf_jax.theory.limits import quantile

PROMPTS, ANSWERS = 64, 64
TRAINING, STEPS, NOISE = 200, 1000, 0.1
DRAWS = 64  # over which the share of distinct answers is expected


class Distinct(NamedTuple):
    """The distinct answers to one prompt: the ranking model's score, gold, words, and how often each was sampled."""

    scores: Float[np.ndarray, "M"]
    gold: Float[np.ndarray, "M"]
    words: Float[np.ndarray, "M"]
    counts: Int[np.ndarray, "M"]

    @property
    def share(self) -> Float[np.ndarray, "M"]:
        """The reference policy: the shares in the sample."""
        return self.counts / self.counts.sum()


def distinct(texts: list[str], scores: Float[np.ndarray, "N"], gold: Float[np.ndarray, "N"]) -> Distinct:
    """N sampled answers, each text once."""
    _, first, counts = np.unique(np.array(texts), return_index=True, return_counts=True)
    words = np.array([len(texts[i].split()) for i in first], float)
    return Distinct(scores[first], gold[first], words, counts)


def rank_wise(law: LimitLaw, answers: Distinct) -> Float[np.ndarray, "M"]:
    """The rewards of ``law`` in the order of the scores: the quantile at the middle of each answer's own share."""
    order, share = np.argsort(answers.scores, kind="stable"), answers.share
    rewards = np.empty(len(share))
    rewards[order] = quantile(law, np.cumsum(share[order]) - share[order] / 2)
    return rewards


def run_exact() -> dict[str, float]:
    """SEED.LAW.NAME, the measures of ``judge`` for every seed and every law."""
    lists = [sample_lists(seed, TRAINING, False) for seed in EXACT_SEEDS]
    ranks = [
        noisy_ranks(np.random.default_rng([seed, 3]), one.gold, NOISE)
        for seed, one in zip(EXACT_SEEDS, lists, strict=True)
    ]
    features = np.stack([one.features for one in lists])
    params = train(Log(epsilon=0.01), features, np.stack(ranks), np.array(EXACT_SEEDS), STEPS)
    summary: dict[str, float] = {}
    for place, seed in enumerate(EXACT_SEEDS):
        sampled = sample_answers(seed, PROMPTS, ANSWERS)
        one = {name: leaf[place] for name, leaf in params.items()}
        scores = np.asarray(rewards_of(one, sampled.features), float)
        answers = [distinct(*row) for row in zip(sampled.texts, scores, sampled.gold, strict=True)]
        for name, (member, parameters) in LAWS.items():
            law = make_utility(member, **parameters).limit_law()
            assert law is not None  # noqa: S101  # every member of LAWS declares its own
            found = judge(answers, [rank_wise(law, row) for row in answers], sampled.closed)
            summary |= {f"{seed}.{name}.{key}": value for key, value in found.items()}
    return summary


def judge(
    answers: list[Distinct], rewards: list[Float[np.ndarray, "M"]], closed: Bool[np.ndarray, "P"]
) -> dict[str, float]:
    """WHAT.NAME: means over prompts of the optimum at each beta (``betaB``), at each mean KL (``klK``), and of the
    reference (``sft``); ``bonN.gold`` for the best of N. Where a KL is out of reach its figures are missing.
    """
    shares = [row.share for row in answers]
    found = {
        f"bon{n}.gold": float(
            np.mean(
                [
                    best_of_n(np.repeat(r, row.counts), np.repeat(row.gold, row.counts), n)
                    for r, row in zip(rewards, answers, strict=True)
                ]
            )
        )
        for n in BEST_OF
    }
    betas = {f"beta{beta:g}": beta for beta in BETAS}
    for target in KLS:
        reached = beta_at_kl(rewards, shares, target)
        if reached is not None:
            betas[f"kl{target:g}"] = found[f"kl{target:g}.beta"] = reached
    policies = {
        what: [tilted(r, p, beta) for r, p in zip(rewards, shares, strict=True)] for what, beta in betas.items()
    }
    for what, chosen in ({"sft": shares} | policies).items():
        columns = {
            "kl": [kl(policy, share) for policy, share in zip(chosen, shares, strict=True)],
            "entropy": [entropy(policy) for policy in chosen],
            "unique": [np.sum(1.0 - (1.0 - policy) ** DRAWS) / DRAWS for policy in chosen],
            "top": [policy.max() for policy in chosen],
            "gold": [policy @ row.gold for policy, row in zip(chosen, answers, strict=True)],
            "length": [policy @ row.words for policy, row in zip(chosen, answers, strict=True)],
        }
        for name, values in columns.items():
            found[f"{what}.{name}"] = float(np.mean(values))
            found[f"{what}.{name}.open"] = float(np.mean(np.array(values)[~closed]))
            found[f"{what}.{name}.closed"] = float(np.mean(np.array(values)[closed]))
    return found
