"""Pairs in the form of Anthropic's HH (``chosen`` and ``rejected`` dialogues): SFT on the chosen, pairwise reward.

What it shows. The same program on pairs of real dialogues: the text before the last assistant turn is the prompt, the
last turn is the response.

Expected result. Such pairs are noisy and a small model learns little from few: held-out pair accuracy a little above
one half.
Wall time. Minutes on two CPU cores, by the size of the file.
Command.
  python -m rlhf_jax --config=configs/hh_file.py --workdir=runs/hh --config.data.path=hh.jsonl.gz
"""

from ml_collections import ConfigDict

from rlhf_jax.config import default_config, utility


def get_config() -> ConfigDict:
    """A model of width 128; the file comes from the command line."""
    config = default_config()
    config.stages = ("sft", "reward")

    config.data.format = "hh"
    config.data.list_size = 2  # a pair is a list of two
    config.data.on_bad_row = "skip"  # some published rows have an empty answer; each goes to rejects.jsonl
    config.data.max_prompt = 128
    config.data.max_response = 128
    config.tokenizer.kind = "bpe"
    config.tokenizer.vocab_size = 2048

    config.model.width = 128
    config.model.depth = 2
    config.model.mlp_width = 256

    config.sft.steps = 200
    config.sft.batch_size = 16
    config.sft.row_length = 256

    config.reward.steps = 100  # one pass over some 1,600 pairs: more only learns them by heart
    config.reward.batch_size = 16
    config.reward.utility = utility("log_sigmoid", sigma=1.0)
    return config
