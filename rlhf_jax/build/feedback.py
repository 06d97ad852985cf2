"""See that the data hold the feedback that a reward stage is to be trained on, before anything is trained."""

from collections.abc import Sequence

from ml_collections import ConfigDict

from rlhf_jax.build.specs import reward_bounded
from rlhf_jax.config import did_you_mean
from rlhf_jax.data.records import Record
from rlhf_jax.errors import UserError

STAGES = ("reward", "reward_common")
TIES = ("rao_kupper", "davidson")  # losses that are trained on ties too


def check_feedback(config: ConfigDict, records: Sequence[Record]) -> None:
    """See that some record can be trained on, that scores lie where the configuration says, and that the margins,
    scores and annotators that it speaks of occur. Without a reward stage there is nothing to see.

    Raises:
      UserError: none can be trained on; names the kinds of feedback that there are. Or a score is out of its range, or
        there are no margins, no scores, or no judgements of an annotator.
    """
    stages = [stage for stage in STAGES if stage in config.stages]
    if not stages:
        return
    missing = missing_feedback(config.reward, records)
    if missing:
        raise UserError(missing)
    if config.reward.margin and not any(record.margin for record in records):
        raise UserError(f"config.reward.margin: {config.reward.margin} would go unused: the data hold no margins")
    if config.reward.weights.scores and all(one.score is None for record in records for one in record.responses):
        raise UserError(
            f"config.reward.weights.scores: {config.reward.weights.scores} would go unused: the data hold no scores"
        )
    for stage in stages:
        _check_scores(config.reward, records, bounded=reward_bounded(config.reward, prompt_aware=stage == "reward"))
    known = {record.annotator for record in records} - {""}
    for annotator in config.reward.annotator_weights:
        if annotator not in known:
            hint = did_you_mean(annotator, known)
            raise UserError(f"config.reward.annotator_weights.{annotator}: nobody of this name judged anything{hint}")


def check_judgements(config: ConfigDict, records: Sequence[Record]) -> None:
    """See that the stage dpo finds in some record what its loss is trained on, and margins if it is to heed them.

    Raises:
      UserError: it does not; names the key.
    """
    if "dpo" not in config.stages:
        return
    dpo = config.dpo
    compared = any(_compared(record, ties=False) for record in records)
    labelled = any(response.label is not None for record in records for response in record.responses)
    if not compared and not (labelled and dpo.loss == "kto"):
        mend = "; they hold verdicts, which config.dpo.loss=kto learns from" if labelled else ""
        raise UserError(f"config.dpo.loss: {dpo.loss} learns from comparisons, but the data hold none{mend}")
    if dpo.margin and not any(record.margin for record in records):
        raise UserError(f"config.dpo.margin: {dpo.margin} would go unused: the data hold no margins")


def missing_feedback(reward: ConfigDict, records: Sequence[Record]) -> str:
    """What is wrong if no record holds feedback that is trained on, empty if one does."""
    responses = [response for record in records for response in record.responses]
    there = {
        "ranks": any(_compared(record, ties=reward.loss in TIES) for record in records),
        "labels": any(response.label is not None for response in responses),
        "scores": any(response.score is not None for response in responses),
    }
    if any(there[kind] and reward.weights[kind] for kind in there):
        return ""
    found = [kind for kind, held in there.items() if held]
    if not found:
        mend = " but ties, which need config.reward.loss=davidson" if _only_ties(records) else ""
        return f"config.reward.weights: the data hold no feedback to train a reward model on{mend}"
    return (
        f"config.reward.weights: the data hold {' and '.join(found)}, but nothing that is trained on; "
        f"set config.reward.weights.{found[0]} above 0"
    )


def _compared(record: Record, *, ties: bool) -> bool:
    """Whether two responses were compared (and, unless ``ties`` count, one was better)."""
    ranks = [response.rank for response in record.responses if response.rank is not None]
    if record.edges is not None:
        return bool(record.edges)
    return len(set(ranks)) > 1 or (ties and len(ranks) > 1)


def _only_ties(records: Sequence[Record]) -> bool:
    return any(_compared(record, ties=True) for record in records)


def _check_scores(reward: ConfigDict, records: Sequence[Record], *, bounded: bool) -> None:
    """Rewards in [0, 1] cannot follow scores beyond those that become 0 and 1; others can."""
    low, high = reward.scores.low, reward.scores.high
    scores = [one.score for record in records for one in record.responses if one.score is not None]
    if reward.weights.scores and bounded and scores and not low <= min(scores) <= max(scores) <= high:
        key, value = ("low", low) if min(scores) < low else ("high", high)
        raise UserError(
            f"config.reward.scores.{key}: {value}, but scores go from {min(scores):g} to {max(scores):g} and rewards "
            "lie in [0, 1]"
        )
