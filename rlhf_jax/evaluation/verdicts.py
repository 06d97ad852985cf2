"""A reward model on held-out verdicts, scores and ties, beside the best that could be done with noisy annotators.

No model can foresee a coin. Where the annotators' probabilities are known, as in the embedded world, the figures of the
predictor that knows them are exact expectations, in the same units as those of the model: ``bayes.NAME`` beside
``NAME``.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy.special import entr, expit, log_softmax, xlogy
from scipy.stats import rankdata, spearmanr

from rlhf_jax.data.examples import ListExample
from rlhf_jax.data.loader import thin
from rlhf_jax.data.records import Record
from rlhf_jax.data.world_feedback import Annotators, outcomes, prefers
from rlhf_jax.evaluation.policy import Gold
from rlhf_jax.learners.reward import FeedbackSpec

SMALLEST = 1e-6  # a bounded reward is kept so far from 0 and 1 in the logarithm, as in training
Rewards = Sequence[Float[np.ndarray, "_"]]


def rewards_of_responses(
    rows: Sequence[Mapping[str, Any]], lists: Sequence[ListExample], list_size: int
) -> list[Float[np.ndarray, "_"]]:
    """The rewards in the rows of one evaluation (``evaluation.reward``) by list and response; NaN where a response was
    left out of a longer list.
    """
    found = [np.full(len(one.responses), np.nan) for one in lists]
    kept = [(own, place) for own, one in enumerate(lists) for place in thin(one.ranks, list_size)]
    for (own, place), row in zip(kept, rows, strict=True):
        found[own][place] = row["reward"]
    return found


def verdict_metrics(
    lists: Sequence[ListExample], rewards: Rewards, feedback: FeedbackSpec, *, bounded: bool
) -> dict[str, float]:
    """Held-out figures of each kind of feedback that the model is trained on and the lists hold.

    ``rewards`` are those of each list's responses, NaN where one was not encoded. Labels (the reward is a probability
    if ``bounded``, else its logit): ``label_accuracy`` at 1/2, ``label_log_loss`` (nats), ``label_brier``,
    ``label_auc``. Scores: ``score_rmse`` in their own units and ``score_spearman``. Losses that know ties:
    ``three_way_accuracy``, the share of judgements (better, worse, equal) whose most likely outcome it was, and
    ``three_way_log_loss`` (nats per judgement).
    """
    found: dict[str, float] = {}
    reward = np.concatenate([np.zeros(0), *rewards])
    labels, scores = (
        np.array([np.nan if value is None else value for one in lists for value in told(one)], np.float64)
        for told in (lambda one: one.labels, lambda one: one.scores)
    )
    if feedback.labels and len(labels):
        found |= _label_figures(reward, labels, bounded=bounded)
    if feedback.scores and len(scores):
        found |= _score_figures(reward * (feedback.high - feedback.low) + feedback.low, scores)
    if feedback.loss in ("rao_kupper", "davidson") and feedback.ranks:
        found |= _three_way_figures(lists, rewards, feedback)
    return found


def gold_accuracy(records: Sequence[Record], rewards: Rewards, gold: Gold) -> dict[str, float]:
    """``gold_accuracy``: the share of pairs of different gold, compared or not, that rewards put in gold's order."""
    right, pairs = 0.0, 0
    for record, own in zip(records, rewards, strict=True):
        truth = np.array([gold(record.prompt, response.text) for response in record.responses])
        differ = (truth[:, None] > truth[None, :]) & ~np.isnan(own[:, None] - own[None, :])
        right += float(_right(own[:, None] - own[None, :])[differ].sum())
        pairs += int(differ.sum())
    return {"gold_accuracy": right / pairs} if pairs else {}


def bayes_optimal(records: Sequence[Record], annotators: Annotators, gold: Gold) -> dict[str, float]:
    """What a predictor that knows the gold and the annotators' noise can expect on these records.

    ``bayes.pair_accuracy`` and ``bayes.log_loss`` (nats) per comparison that does not end in a tie,
    ``bayes.three_way_accuracy`` and ``.three_way_log_loss`` per judgement of two answers, if some may,
    ``bayes.label_accuracy``, ``.label_log_loss``, ``.label_brier`` per verdict, ``bayes.score_rmse``.
    """
    pairs: list[np.ndarray] = []  # probabilities of (first better, second better), which may leave some for a tie
    three: list[np.ndarray] = []
    good: list[np.ndarray] = []
    squares: list[float] = []
    ties = False
    for record in records:
        kind = annotators.assignment(record.id)[0]
        noise = annotators.noise_of(record.annotator)
        truth = np.array([gold(record.prompt, response.text) for response in record.responses])
        if kind == "labels":
            good.append(prefers(truth - 0.5, noise))
        elif kind == "scores":
            squares += [noise**2] * len(truth)
        elif kind == "ties":
            three.append(outcomes(float(truth[0] - truth[1]), noise))
            pairs.append(three[-1][:2])
            ties = True
        else:
            first, second = _compared(record)
            p = prefers(truth[first] - truth[second], noise)
            pairs += list(np.stack([p, 1.0 - p], axis=1))
            three += list(np.stack([p, 1.0 - p, 0.0 * p], axis=1))  # nobody may call these equal
    found: dict[str, float] = {}
    if pairs:
        both = np.array(pairs)
        total = both.sum(axis=1)
        entropy = entr(both).sum(axis=1) - entr(total)  # of who wins, times the probability that somebody does
        found |= {"pair_accuracy": both.max(axis=1).sum() / total.sum(), "log_loss": entropy.sum() / total.sum()}
    if ties:
        found |= {
            "three_way_accuracy": np.max(three, axis=1).mean(),
            "three_way_log_loss": entr(three).sum(axis=1).mean(),
        }
    if good:
        p = np.concatenate(good)
        found |= {
            "label_accuracy": np.maximum(p, 1.0 - p).mean(),
            "label_log_loss": (entr(p) + entr(1.0 - p)).mean(),
            "label_brier": (p * (1.0 - p)).mean(),
        }
    if squares:
        found["score_rmse"] = np.sqrt(np.mean(squares))
    return {f"bayes.{name}": float(value) for name, value in found.items()}


def _compared(record: Record) -> tuple[np.ndarray, np.ndarray]:
    """Each compared pair once: of two answers all, of edges those that follow from others too."""
    ranks = tuple(response.rank or 0 for response in record.responses)
    better, _ = ListExample(np.zeros(0, int), (), ranks, "", 0, edges=record.edges).comparisons()
    first, second = np.nonzero(better)
    return first, second


def _right(gap: Float[np.ndarray, "*S"]) -> Float[np.ndarray, "*S"]:
    return np.where(gap > 0, 1.0, np.where(gap == 0, 0.5, 0.0))


def _label_figures(
    reward: Float[np.ndarray, "N"], labels: Float[np.ndarray, "N"], *, bounded: bool
) -> dict[str, float]:
    known = ~np.isnan(labels) & ~np.isnan(reward)
    reward, labels = reward[known], labels[known]
    if not len(labels):
        return {}
    p = np.clip(reward, SMALLEST, 1.0 - SMALLEST) if bounded else expit(reward)
    # log of expit(r), which may round to 0
    losses = (
        -xlogy(labels, p) - xlogy(1.0 - labels, 1.0 - p) if bounded else np.logaddexp(0.0, reward) - labels * reward
    )
    decided = labels != 0.5
    signs = np.where(labels > 0.5, 1.0, -1.0)[decided]
    found = {"label_log_loss": losses.mean(), "label_brier": np.mean((p - labels) ** 2)}
    if decided.any():
        found["label_accuracy"] = _right(signs * (p - 0.5)[decided]).mean()
    good = int((signs > 0).sum())
    if 0 < good < len(signs):
        ranks = rankdata(reward[decided])
        wins = ranks[signs > 0].sum() - good * (good + 1) / 2
        found["label_auc"] = wins / (good * (len(signs) - good))
    return {name: float(value) for name, value in found.items()}


def _score_figures(predicted: Float[np.ndarray, "N"], scores: Float[np.ndarray, "N"]) -> dict[str, float]:
    known = ~np.isnan(scores) & ~np.isnan(predicted)
    predicted, scores = predicted[known], scores[known]
    if not len(scores):
        return {}
    found = {"score_rmse": float(np.sqrt(np.mean((predicted - scores) ** 2)))}
    if len(np.unique(scores)) > 1 and len(np.unique(predicted)) > 1:
        found["score_spearman"] = float(spearmanr(predicted, scores).statistic)
    return found


def _three_way_figures(lists: Sequence[ListExample], rewards: Rewards, feedback: FeedbackSpec) -> dict[str, float]:
    losses, right = [], []
    for one, own in zip(lists, rewards, strict=True):
        better, tied = one.comparisons()
        first, second = np.nonzero(np.triu(better | better.T | tied, k=1) & ~np.isnan(own[:, None] - own[None, :]))
        happened = np.where(tied[first, second], 2, np.where(better[first, second], 0, 1))
        logs = _log_outcomes(own[first] - own[second], feedback)
        losses.append(-np.take_along_axis(logs, happened[:, None], axis=1)[:, 0])
        best = logs.max(axis=1, keepdims=True)
        shared = (logs == best).sum(axis=1)  # equally likely outcomes share the point
        right.append((np.take_along_axis(logs, happened[:, None], axis=1) == best)[:, 0] / shared)
    loss, hits = np.concatenate([np.zeros(0), *losses]), np.concatenate([np.zeros(0), *right])
    return {"three_way_accuracy": float(hits.mean()), "three_way_log_loss": float(loss.mean())} if len(loss) else {}


def _log_outcomes(gap: Float[np.ndarray, "M"], feedback: FeedbackSpec) -> Float[np.ndarray, "M 3"]:
    """Log-probabilities of better, worse, equal under the model that the loss is of (``objectives.ties``)."""
    tie = feedback.tie
    if feedback.loss == "davidson":
        return log_softmax(np.stack([gap / 2, -gap / 2, np.full_like(gap, np.log(tie))], axis=1), axis=1)
    softplus_up, softplus_down = np.logaddexp(0.0, tie + gap), np.logaddexp(0.0, tie - gap)
    shift = 2.0 * tie + np.log(-np.expm1(-2.0 * tie))
    return np.stack([-softplus_down, -softplus_up, shift - softplus_up - softplus_down], axis=1)
