"""PPO against a fine-grained reward model, which pays at the end of every phrase, beside one of whole answers.

What it shows. In the local task of the embedded world an answer is several phrases, and each may have defects that are
marked in the data as spans. A fine-grained reward model learns each kind of defect from its spans, and PPO is told
which phrase was good instead of how good the answer was.

Expected result. The area under the ROC curve (``segments.auc.KIND``) is near 1 for all kinds but ``repeated``, which
needs longer, and the gold reward rises under PPO from about 0.2 to more than twice that.
Wall time. About two minutes on two CPU cores.
Command.
  python -m rlhf_jax --config=configs/fine_grained.py --workdir=runs/fine_grained
"""

from ml_collections import ConfigDict

from rlhf_jax.config import default_config


def get_config() -> ConfigDict:
    """SFT, the fine-grained reward model, PPO."""
    config = default_config()
    config.stages = ("sft", "segments", "ppo")

    config.data.task = "local"
    config.data.max_response = 32

    # Three kinds are judged in every phrase; whether the answer is long enough, at its end.
    config.segments.kinds = ("plain:sub_sentence", "repeated:sub_sentence", "wrong_city:sub_sentence", "short:sequence")
    config.segments.least_words = 2  # the phrases of this language are shorter than English ones

    config.ppo.dense.models = ("this",)
    config.ppo.dense.value = "sign"
    config.ppo.dense.weights = ("plain:0.3", "repeated:0.3", "wrong_city:0.3", "short:0.5")
    config.ppo.dense.sequence = 0.0  # no reward model of whole answers
    return config
