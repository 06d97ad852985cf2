"""A reward model from one kind of feedback, by annotators who err as often as a known probability says.

What it shows. Every kind of feedback on the same answers, each under the loss that is its likelihood. What the model
reaches on held-out feedback stands beside what a predictor that knows the truth could reach (``bayes.*``), and
``gold_accuracy`` says how well the truth itself was learned.

Expected result. ``pair_accuracy``, ``label_accuracy``, ``three_way_accuracy`` close to their ``bayes.*``, losses a
little above theirs, and a ``gold_accuracy`` above the pair accuracy: the model averages over its annotators' mistakes.
Wall time. About a minute on two CPU cores for each kind.
Command.
  python -m rlhf_jax --config=configs/feedback.py --workdir=runs/feedback_pairs
The other kinds:
  python -m rlhf_jax --config=configs/feedback.py:lists --workdir=runs/feedback_lists
  python -m rlhf_jax --config=configs/feedback.py:margins --workdir=runs/feedback_margins
  python -m rlhf_jax --config=configs/feedback.py:ties --workdir=runs/feedback_ties
  python -m rlhf_jax --config=configs/feedback.py:edges --workdir=runs/feedback_edges
  python -m rlhf_jax --config=configs/feedback.py:labels --workdir=runs/feedback_labels
  python -m rlhf_jax --config=configs/feedback.py:scores --workdir=runs/feedback_scores
  python -m rlhf_jax --config=configs/feedback.py:mixed --workdir=runs/feedback_mixed
"""

from ml_collections import ConfigDict

from rlhf_jax.config import default_config, utility

NOISE = 0.25  # units of gold reward


def get_config(kind: str = "pairs") -> ConfigDict:
    """From scratch, with unbounded rewards; gaps of the true reward are gold / noise."""
    config = default_config()
    config.stages = ("reward",)
    config.data.feedback = kind
    config.reward.init = "scratch"
    config.reward.utility = utility("log_sigmoid")
    config.reward.steps, config.reward.eval_every = 250, 125
    if kind != "lists":  # which are exact
        config.data.noise = NOISE
    if kind in ("pairs", "margins", "ties"):
        config.data.list_size, config.reward.batch_size = 2, 32
        config.reward.steps, config.reward.eval_every = 300, 100
        config.reward.optimizer.weight_decay = 0.3  # five passes, in which single noisy pairs are learned by heart
    if kind in ("ties", "mixed"):
        config.reward.loss, config.reward.tie = "davidson", 1.0
    if kind == "lists":
        config.reward.loss = "plackett_luce"
    if kind == "margins":
        config.reward.margin = 1.0
    if kind in ("scores", "mixed"):
        config.reward.weights.scores = 1.0
    if kind == "mixed":
        config.reward.steps, config.reward.eval_every = 600, 200  # a sixth of the lists for each kind
        # One scale for all kinds: the reward of a score s is (s - 1/2) / noise, the logit of a verdict.
        config.reward.scores.low, config.reward.scores.high = 0.5, 0.5 + NOISE
    return config
