"""A fine-grained reward model on held-out responses: is each part judged as it was marked?"""

from collections.abc import Callable, Iterable, Sequence

import numpy as np
from jaxtyping import Float
from scipy.special import xlogy
from scipy.stats import rankdata

from rlhf_jax.types import SegmentBatch

SMALLEST = 1e-6  # a base rate is kept so far from 0 and 1 in the logarithm


def verdict_metrics(logits: Float[np.ndarray, "M"], labels: Float[np.ndarray, "M"]) -> dict[str, float]:
    """Figures of M verdicts; {} of none. Labels in [0, 1] count as good from 1/2 on for accuracy and AUC.

    ``base_rate`` is the share of defective segments, ``accuracy`` beside ``accuracy_base`` of always saying what is
    more frequent, ``cross_entropy`` (nats) beside ``cross_entropy_base`` of always saying the base rate. ``auc`` is the
    probability that a good segment has a higher logit than a defective one, ties one half; left out if all are alike.
    """
    if not len(labels):
        return {}
    good = labels >= 0.5
    mean = float(np.clip(labels.mean(), SMALLEST, 1 - SMALLEST))
    metrics = {
        "base_rate": float(1 - good.mean()),
        "accuracy": float(np.mean((logits >= 0) == good)),
        "accuracy_base": float(max(good.mean(), 1 - good.mean())),
        "cross_entropy": float(np.mean(np.logaddexp(0.0, logits) - labels * logits)),
        "cross_entropy_base": float(np.mean(-xlogy(labels, mean) - xlogy(1 - labels, 1 - mean))),
    }
    if 0 < good.sum() < len(good):
        # Mann-Whitney: the mean rank of the good ones tells how many defective ones lie below them.
        above = rankdata(logits)[good].sum() - good.sum() * (good.sum() + 1) / 2
        metrics["auc"] = float(above / (good.sum() * (~good).sum()))
    return metrics


def evaluate_segments(
    loss_and_logits: Callable[[SegmentBatch], tuple[float, float, np.ndarray]],
    batches: Iterable[SegmentBatch],
    names: Sequence[str],
) -> dict[str, float]:
    """Loss, and ``NAME.KIND`` of every figure of ``verdict_metrics``, over all segments of one pass.

    ``loss_and_logits`` gives (loss numerator, its weight, logits (B, T, A)) of a batch.
    """
    totals = np.zeros(2)
    logits: list[list[np.ndarray]] = [[] for _ in names]
    labels: list[list[np.ndarray]] = [[] for _ in names]
    for batch in batches:
        loss, weight, found = loss_and_logits(batch)
        totals += (loss, weight)
        for place in range(len(names)):
            own = ~np.isnan(batch.labels[..., place])
            logits[place].append(np.asarray(found, np.float64)[..., place][own])
            labels[place].append(np.asarray(batch.labels, np.float64)[..., place][own])
    metrics = {"loss": float(totals[0] / max(totals[1], 1.0))}
    for place, name in enumerate(names):
        figures = verdict_metrics(np.concatenate(logits[place]), np.concatenate(labels[place]))
        metrics |= {f"{figure}.{name}": value for figure, value in figures.items()}
    return metrics
