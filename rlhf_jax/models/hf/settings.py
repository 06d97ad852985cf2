"""``config.json`` read key by key: each is known, or of no consequence, or refused by name."""

import math
from collections.abc import Mapping
from typing import Any

from rlhf_jax.errors import UserError

REQUIRED = object()  # the default of a key that has to be there

# What changes nothing that a decoder computes: names, versions, ids of tokens, how to train, how to generate.
_NO_MATTER = """
_attn_implementation_autoset _name_or_path _num_labels add_cross_attention_hidden_size architectures
attention_dropout attn_pdrop bad_words_ids begin_suppress_tokens bos_token_id cache_implementation
chunk_size_feed_forward classifier_dropout decoder_start_token_id diversity_penalty do_sample dtype early_stopping
embd_pdrop embed_dropout encoder_no_repeat_ngram_size eos_token_id exponential_decay_length_penalty finetuning_task
forced_bos_token_id forced_eos_token_id gradient_checkpointing hidden_dropout id2label initializer_range is_decoder
is_encoder_decoder is_llama_config label2id length_penalty max_length min_length model_type n_ctx
no_repeat_ngram_size num_beam_groups num_beams num_labels num_return_sequences output_attentions
output_hidden_states output_past output_scores pad_token_id prefix pretraining_tp problem_type remove_invalid_values
reorder_and_upcast_attn repetition_penalty resid_dropout resid_pdrop return_dict return_dict_in_generate rlhf_jax
sep_token_id summary_activation summary_first_dropout summary_proj_to_labels summary_type summary_use_proj
suppress_tokens task_specific_params temperature tf_legacy_loss tie_encoder_decoder tokenizer_class top_k top_p
torch_dtype torchscript transformers.js_config transformers_version typical_p unsloth_fixed unsloth_version
use_bfloat16 use_cache
"""
IGNORED = frozenset(_NO_MATTER.split())


class Settings:
    """The values of a ``config.json``, which remembers what has been read of them."""

    def __init__(self, values: Mapping[str, Any], where: str) -> None:
        self.values, self.where = values, where
        self._read: set[str] = set()

    def refuse(self, key: str, reason: str) -> UserError:
        """The error of a key."""
        return UserError(f"{self.where}: {key}: {reason}")

    def get(self, key: str, default: Any = REQUIRED) -> Any:
        """The value of a key, as it stands. Raises UserError for one that has to be there and is not."""
        self._read.add(key)
        value = self.values.get(key, default)
        if value is REQUIRED:
            raise self.refuse(key, "missing")
        return value

    def size(self, key: str, default: Any = REQUIRED) -> int:
        """A count, at least 1; null stands for the default. Raises UserError for anything else."""
        value = self.get(key, default)
        value = default if value is None and default is not REQUIRED else value
        if type(value) is not int or not 1 <= value < 2**31:
            raise self.refuse(key, f"{value!r} is not a count of at least 1")
        return value

    def number(self, key: str, default: Any = REQUIRED) -> float:
        """A number above 0. Raises UserError for anything else."""
        return self.positive(key, self.get(key, default))

    def positive(self, key: str, value: Any) -> float:
        """``value`` of ``key`` as a float above 0. Raises UserError for anything else."""
        if type(value) not in (int, float) or not (math.isfinite(value) and value > 0):
            raise self.refuse(key, f"{value!r} is not a number above 0")
        return float(value)

    def flag(self, key: str, default: bool) -> bool:
        """True or False. Raises UserError for anything else."""
        value = self.get(key, default)
        if not isinstance(value, bool):
            raise self.refuse(key, f"{value!r} is neither true nor false")
        return value

    def only(self, key: str, allowed: tuple[Any, ...]) -> None:
        """See that a key, if it is there, has one of the values that the decoder knows. Raises UserError."""
        value = self.get(key, allowed[0])
        if value not in allowed:
            raise self.refuse(key, f"{value!r} is not supported, only {' or '.join(map(repr, allowed))}")

    def finish(self) -> None:
        """Raise UserError for the first key that nobody has read and that is not known to be of no consequence."""
        for key in sorted(self.values.keys() - self._read - IGNORED):
            raise self.refuse(key, "not known; it may change what the model computes")
