"""See that the data hold the feedback that a reward stage is to be trained on."""

from collections.abc import Sequence

import numpy as np

from rlhf_jax.data.examples import ListExample
from rlhf_jax.errors import UserError
from rlhf_jax.learners.reward import FeedbackSpec


def check_feedback(lists: Sequence[ListExample], feedback: FeedbackSpec) -> None:
    """See that some list can be trained on, and that scores lie where the configuration says.

    Raises:
      UserError: none can; names the kinds of feedback that there are. Or a score is out of its range.
    """
    scores = [score for example in lists for score in example.scores if score is not None]
    there = {
        "ranks": any(np.any(better) for better, _ in (example.comparisons() for example in lists)),
        "labels": any(label is not None for example in lists for label in example.labels),
        "scores": bool(scores),
    }
    if feedback.loss in ("rao_kupper", "davidson"):
        there["ranks"] |= any(np.any(tied) for _, tied in (example.comparisons() for example in lists))
    if not any(there[kind] and getattr(feedback, kind) for kind in there):
        found = " and ".join(kind for kind, held in there.items() if held) or "no feedback"
        mend = next((kind for kind, held in there.items() if held), "ranks")
        raise UserError(
            f"config.reward.weights: the data hold {found}, but nothing that is trained on; "
            f"set config.reward.weights.{mend} above 0"
        )
    if feedback.scores and scores and not feedback.low <= min(scores) <= max(scores) <= feedback.high:
        bound = "low" if min(scores) < feedback.low else "high"
        raise UserError(
            f"config.reward.scores.{bound}: {getattr(feedback, bound)}, but scores go from {min(scores):g} to "
            f"{max(scores):g}"
        )
