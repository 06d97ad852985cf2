"""The decoder and its heads, behind pure ``init`` and ``apply`` functions; nothing outside this room imports flax."""

from rlhf_jax.models.decoder import (
    Cache,
    apply_decoder,
    extend_cache,
    fill_cache,
    for_a_loop,
    init_decoder,
    output_head,
    output_logits,
)
from rlhf_jax.models.ensemble import (
    apply_reward_members,
    head_of,
    init_reward_model,
    member_keys,
    read_members,
    representative,
    rewards_by_members,
    with_decoder,
)
from rlhf_jax.models.heads import (
    apply_reward_model,
    apply_token_heads,
    apply_value_model,
    at_last,
    init_scalar_head,
    init_token_heads,
    last_token,
    read_reward,
    read_values,
    silent_value_head,
    value_from_reward,
)
from rlhf_jax.models.kernels import unable
from rlhf_jax.models.layout import gathered
from rlhf_jax.models.lists import apply_reward_lists, of_responses, read_lists, shares_prompts
from rlhf_jax.models.lora import LoRASpec, add_adapters, has_adapters, merge, overlay, trained, without_adapters
from rlhf_jax.models.masks import positions_of
from rlhf_jax.models.quantised import check_quantiser, quantised
from rlhf_jax.models.spec import ONE_MODEL, DecoderSpec, EnsembleSpec
from rlhf_jax.models.unpadded import apply_unpadded, last_hidden

__all__ = [
    "ONE_MODEL",
    "Cache",
    "DecoderSpec",
    "EnsembleSpec",
    "LoRASpec",
    "add_adapters",
    "apply_decoder",
    "apply_reward_lists",
    "apply_reward_members",
    "apply_reward_model",
    "apply_token_heads",
    "apply_unpadded",
    "apply_value_model",
    "at_last",
    "check_quantiser",
    "extend_cache",
    "fill_cache",
    "for_a_loop",
    "gathered",
    "has_adapters",
    "head_of",
    "init_decoder",
    "init_reward_model",
    "init_scalar_head",
    "init_token_heads",
    "last_hidden",
    "last_token",
    "member_keys",
    "merge",
    "of_responses",
    "output_head",
    "output_logits",
    "overlay",
    "positions_of",
    "quantised",
    "read_lists",
    "read_members",
    "read_reward",
    "read_values",
    "representative",
    "rewards_by_members",
    "shares_prompts",
    "silent_value_head",
    "trained",
    "unable",
    "value_from_reward",
    "with_decoder",
    "without_adapters",
]
