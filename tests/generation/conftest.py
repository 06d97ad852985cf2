"""A small policy with a lively distribution, and policies whose next-token logits are given numbers."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.models import DecoderSpec, init_decoder

PAD, EOS, VOCAB = 0, 1, 11


@pytest.fixture(scope="session")
def spec():
    return DecoderSpec(vocab_size=VOCAB, width=16, depth=2, heads=4, kv_heads=2, mlp_width=24, tied=False)


@pytest.fixture(scope="session")
def make_params(spec):
    def make(seed):
        rng = np.random.default_rng(seed)
        shapes = jax.eval_shape(partial(init_decoder, spec), jax.random.key(0))
        return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape) * 0.5, leaf.dtype), shapes)

    return make


@pytest.fixture(scope="session")
def policy(make_params):
    return make_params(0)


@pytest.fixture(scope="session")
def constant_spec():
    return DecoderSpec(vocab_size=VOCAB, width=16, depth=1, heads=2, kv_heads=2, mlp_width=8, tied=False, norm="layer")


@pytest.fixture(scope="session")
def constant_policy(constant_spec):
    """``constant_policy(logits)``: the final norm forgets its input and leaves e_0, which reads row 0 of the output."""

    def make(logits):
        shapes = jax.eval_shape(partial(init_decoder, constant_spec), jax.random.key(0))
        params = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
        params["final_norm"]["bias"] = params["final_norm"]["bias"].at[0].set(1.0)
        params["output"] = params["output"].at[0].set(jnp.asarray(logits, jnp.float32))
        return params

    return make


@pytest.fixture(scope="session")
def prompts():
    """Left-padded prompts of 1, 3, 4 and 2 tokens in 4 slots: ids and mask."""
    ids = np.array([[PAD, PAD, PAD, 5], [PAD, 2, 3, 4], [7, 8, 2, 9], [PAD, PAD, 10, 6]], np.int32)
    return jnp.asarray(ids), jnp.asarray(ids != PAD)
