"""A run of eight billion parameters on a pod: SFT, a reward model from lists of 8, PPO; Llama-3-8B's sizes.

What it shows. Where a large run starts from, made for 64 chips of 95 GiB: bfloat16, rows of 4,096 tokens, prompts and
answers of 1,024 each, parameters over 16 devices and every layer over 4, layers computed again in the backward pass.
The model is fresh, and its tokenizer learned from your file, unless weights are named, by their folder or on the hub:
  --config.model.path=FOLDER --config.tokenizer.kind=pretrained

Expected result. None is on record: nobody has run it to its end. What each program needs is known without devices and
without weights (docs/plan.md): rlhf-jax plan --config=configs/llama_8b.py --topology=v5p:4x4x4
Wall time. docs/plan.md has what the chips' peak allows.
Command.
  python -m rlhf_jax --config=configs/llama_8b.py --workdir=runs/llama_8b --config.data.path=lists.jsonl.gz
"""

from ml_collections import ConfigDict

from rlhf_jax.config import default_config, utility


def get_config() -> ConfigDict:
    """Three stages for 64 devices; the file comes from the command line."""
    config = default_config()

    config.data.template = "\n\nHuman: {prompt}\n\nAssistant:"
    config.data.max_prompt = config.data.max_response = 1024
    config.tokenizer.kind = "bpe"
    config.tokenizer.vocab_size = 128_256

    config.model.width = 4096
    config.model.depth = config.model.heads = 32
    config.model.kv_heads = 8
    config.model.mlp_width = 14_336
    config.model.tied = False
    config.model.max_positions = 8192
    config.model.dtype = "bfloat16"
    config.model.remat = "full"
    config.parallel.fsdp = 16
    config.parallel.tensor = 4

    config.sft.batch_size = 64  # 262,144 tokens
    config.sft.row_length = 4096
    config.sft.optimizer.learning_rate = 1e-5

    config.reward.batch_size = 32  # 256 responses
    config.reward.utility = utility("log_sigmoid", sigma=0.25)
    config.reward.bounded = "yes"  # gaps of at most 1, four times sigma
    config.reward.optimizer.learning_rate = config.ppo.value_learning_rate = 5e-6

    config.ppo.iterations = 500
    config.ppo.prompts_per_iteration = 256
    config.ppo.samples_per_prompt = 1
    config.ppo.epochs = 1
    config.ppo.optimizer.learning_rate = 1e-6
    return config
