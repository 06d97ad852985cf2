"""Your ranked lists, from a JSONL(.gz) file: SFT on the best response, then a listwise reward model.

What it shows. The program on real text: a BPE tokenizer trained on the file, a small model, long texts cut at a stated
length, ties respected. Each line has a prompt and its responses with ranks or scores.

Expected result. Held-out accuracy over pairs that are not tied above chance.
Wall time. Minutes on two CPU cores, by the size of the file.
Command.
  python -m rlhf_jax --config=configs/lists_file.py --workdir=runs/lists --config.data.path=lists.jsonl.gz
"""

from ml_collections import ConfigDict

from rlhf_jax.config import default_config, utility


def get_config() -> ConfigDict:
    """A model of width 128; the file comes from the command line."""
    config = default_config()
    config.stages = ("sft", "reward")

    config.data.format = "lists"
    config.data.template = "\n\nHuman: {prompt}\n\nAssistant:"
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

    config.reward.steps = 200
    config.reward.batch_size = 4
    config.reward.utility = utility("log_sigmoid", sigma=0.25)
    config.reward.bounded = "yes"  # gaps of at most 1, four times sigma
    return config
