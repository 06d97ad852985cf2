"""Tiny models of every family, and of options that none has by default: classes of transformers and settings."""

from tests.models.seeded import EOS, PAD

SIZES = {
    "vocab_size": 50,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
    "pad_token_id": PAD,
    "eos_token_id": EOS,
    "bos_token_id": 2,
}
GROUPED = {**SIZES, "num_key_value_heads": 2}
WINDOW = 5
SMALL_HEADS = {"head_dim": 16, "hidden_size": 24}


def rope(**values):
    return {"rope_parameters": {"rope_theta": 10_000.0, **values}}


def case(kind, sizes=GROUPED, /, **changes):
    return kind, {**sizes, **changes}


GPT_NEO = {key: value for key, value in SIZES.items() if key not in ("num_hidden_layers", "num_attention_heads")}
GPT2 = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_inner": 48, "n_positions": 64}
FAMILIES = {
    "llama": case("Llama"),
    "qwen2": case(
        "Qwen2", tie_word_embeddings=True, use_sliding_window=True, sliding_window=WINDOW, max_window_layers=1
    ),
    "qwen3": case("Qwen3", **SMALL_HEADS),
    "mistral": case("Mistral", sliding_window=WINDOW),
    "gpt2": case("GPT2", {"vocab_size": 50, "pad_token_id": PAD, "eos_token_id": EOS, "bos_token_id": 2}, **GPT2),
    "gpt_neox": case("GPTNeoX", SIZES, **rope(partial_rotary_factor=0.5, rope_type="default")),
    "gpt_neo": case(
        "GPTNeo", GPT_NEO, num_layers=2, num_heads=4, attention_types=[[["global", "local"], 1]], window_size=WINDOW
    ),
    "gemma": case("Gemma", **SMALL_HEADS),
    "gemma2": case(
        "Gemma2",
        **SMALL_HEADS,
        query_pre_attn_scalar=9,
        sliding_window=WINDOW,
        attn_logit_softcapping=2.0,
        final_logit_softcapping=3.0,
    ),
    "gemma3": case(
        "Gemma3Text",
        **SMALL_HEADS | {"num_hidden_layers": 3},
        query_pre_attn_scalar=24,
        sliding_window=WINDOW,
        layer_types=["sliding_attention", "sliding_attention", "full_attention"],
        final_logit_softcapping=4.0,
        rope_parameters={
            "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1_000_000.0},
            "sliding_attention": {"rope_type": "default", "rope_theta": 100.0},
        },
    ),
}
OPTIONS = {
    "llama, biases": case("Llama", attention_bias=True, mlp_bias=True, tie_word_embeddings=True),
    "llama, linear": case("Llama", **rope(rope_type="linear", factor=4.0)),
    "llama, llama3": case(
        "Llama",
        head_dim=16,
        **rope(
            rope_type="llama3",
            factor=8.0,
            low_freq_factor=1.0,
            high_freq_factor=4.0,
            original_max_position_embeddings=32,
        ),
    ),
    # Half of the channels turn by something between the two speeds.
    "qwen2, yarn": case(
        "Qwen2",
        {**GROUPED, "max_position_embeddings": 256},
        **rope(rope_type="yarn", rope_theta=100.0, factor=4.0, original_max_position_embeddings=64),
    ),
    "gpt_neox, one after the other": case("GPTNeoX", SIZES, use_parallel_residual=False, attention_bias=False),
}
CASES = FAMILIES | OPTIONS
