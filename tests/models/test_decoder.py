import dataclasses
import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import ndtr

from rlhf_jax.models import (
    DecoderSpec,
    apply_decoder,
    extend_cache,
    fill_cache,
    init_decoder,
    output_logits,
    positions_of,
)
from rlhf_jax.models.rotary import frequencies, rotate, turns
from rlhf_jax.models.spec import RopeScaling


def style(norm, positions, activation, tied, kv_heads):
    return DecoderSpec(
        vocab_size=13,
        width=16,
        depth=2,
        heads=4,
        kv_heads=kv_heads,
        mlp_width=24,
        norm=norm,
        positions=positions,
        activation=activation,
        tied=tied,
        max_positions=32,
    )


MODERN = style("rms", "rotary", "swiglu", True, 2)
CLASSIC = style("layer", "learned", "gelu", False, 4)
STYLES = {
    "modern": MODERN,
    "classic": CLASSIC,
    "one_kv_head": style("rms", "rotary", "gelu", False, 1),
    "mixed": style("layer", "learned", "swiglu", True, 1),
    # The options of published families, as many at once as go together.
    "windows": dataclasses.replace(
        style("rms1p", "rotary", "geglu", True, 2),
        head_size=6,
        qk_norm=True,
        post_norms=True,
        scaled_embeddings=True,
        query_scale=0.7,
        attention_softcap=2.0,
        logit_softcap=3.0,
        local=(True, False),
        window=3,
        rope_scaling=RopeScaling("linear", 4.0),
        local_rope_theta=50.0,
    ),
    "parallel": dataclasses.replace(
        style("layer", "rotary", "gelu_erf", False, 4),
        qkv_bias=True,
        out_bias=True,
        mlp_bias=True,
        parallel=True,
        rotary_fraction=0.5,
        local=(True, True),
        window=4,
    ),
}
every_style = pytest.mark.parametrize("spec", STYLES.values(), ids=STYLES.keys())


# One shape for every test: each new one is a compilation.
ROWS, LENGTH = 3, 8
IDS = np.random.default_rng(1).integers(0, 13, (ROWS, LENGTH)).astype(np.int32)
REAL = np.ones((ROWS, LENGTH), bool)
decode = jax.jit(apply_decoder, static_argnums=0)
extend = jax.jit(extend_cache, static_argnums=0)


@functools.cache
def busy_params(spec, seed=0):
    """Parameters whose every leaf matters: no zero bias, no unit scale, attention far from uniform."""
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(functools.partial(init_decoder, spec), jax.random.key(0))
    return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape) * 0.4, leaf.dtype), shapes)


def hidden_of(spec, params, ids=IDS, mask=REAL):
    mask = jnp.asarray(mask)
    return np.asarray(decode(spec, params, jnp.asarray(ids), positions_of(mask), mask))


def numpy_decoder(spec, params, ids):
    """Logits (T, V) of one row without padding, written with loops from the description of the architecture."""
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)

    def norm(x, weights):
        if spec.norm == "layer":
            return (x - x.mean()) / np.sqrt(x.var() + spec.norm_epsilon) * weights["scale"] + weights["bias"]
        return x / np.sqrt(np.mean(x**2) + spec.norm_epsilon) * (weights["scale"] + (spec.norm == "rms1p"))

    def dense(x, weights):
        return x @ weights["kernel"] + weights.get("bias", 0.0)

    def turn(vector, position, local):
        """Channel c and its partner half of what rotates further on are one number, turned by position * speed(c)."""
        half = int(size * spec.rotary_fraction) // 2
        theta = spec.local_rope_theta if local and spec.local_rope_theta else spec.rope_theta
        slower = 1.0 if theta == spec.local_rope_theta or not spec.rope_scaling else spec.rope_scaling.factor
        angle = position / slower * theta ** (-np.arange(half) / half)
        turned = (vector[:half] + 1j * vector[half : 2 * half]) * np.exp(1j * angle)
        return np.concatenate([turned.real, turned.imag, vector[2 * half :]])

    def capped(x, cap):
        return cap * np.tanh(x / cap) if cap else x

    def squash(x):
        if spec.activation == "swiglu":
            return x / (1 + np.exp(-x))
        if spec.activation == "gelu_erf":
            return x * ndtr(x)
        return x * 0.5 * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))

    def feed_forward(x, weights):
        up = dense(x, weights["up"])
        if spec.activation in ("swiglu", "geglu"):
            return dense(squash(dense(x, weights["gate"])) * up, weights["down"])
        return dense(squash(up), weights["down"])

    rows = [params["embedding"][i] * (math.sqrt(spec.width) if spec.scaled_embeddings else 1.0) for i in ids]
    if spec.positions == "learned":
        rows = [x + params["position_embedding"][t] for t, x in enumerate(rows)]
    size = spec.head_size or spec.width // spec.heads
    for layer in range(spec.depth):
        weights = jax.tree.map(lambda leaf, layer=layer: leaf[layer], params["layers"])
        attention, local = weights["attention"], bool(spec.local) and spec.local[layer]
        normed = [norm(x, weights["attention_norm"]) for x in rows]
        added = []
        for t in range(len(rows)):
            seen = range(max(0, t + 1 - spec.window) if local else 0, t + 1)
            heads = []
            for head in range(spec.heads):
                shared = head // (spec.heads // spec.kv_heads)
                own, theirs = slice(head * size, (head + 1) * size), slice(shared * size, (shared + 1) * size)
                query = dense(normed[t], attention["q"])[own]
                keys = [dense(normed[s], attention["k"])[theirs] for s in seen]
                if spec.qk_norm:
                    query, keys = norm(query, attention["q_norm"]), [norm(key, attention["k_norm"]) for key in keys]
                if spec.positions == "rotary":
                    query = turn(query, t, local)
                    keys = [turn(key, s, local) for s, key in zip(seen, keys, strict=True)]
                scale = spec.query_scale or 1 / math.sqrt(size)
                weight = np.exp([capped(query @ key * scale, spec.attention_softcap) for key in keys])
                values = [dense(normed[s], attention["v"])[theirs] for s in seen]
                heads.append(sum(w * v for w, v in zip(weight / weight.sum(), values, strict=True)))
            mixed = dense(np.concatenate(heads), attention["o"])
            added.append(norm(mixed, weights["attention_post_norm"]) if spec.post_norms else mixed)
        for t, mixed in enumerate(added):
            x = rows[t] if spec.parallel else rows[t] + mixed
            y = feed_forward(norm(x, weights["mlp_norm"]), weights)
            rows[t] = rows[t] + mixed + (norm(y, weights["mlp_post_norm"]) if spec.post_norms else y)
    final = np.stack([norm(x, params["final_norm"]) for x in rows])
    return capped(final @ (params["embedding"].T if spec.tied else params["output"]), spec.logit_softcap)


@every_style
def test_against_a_decoder_of_loops(spec):
    params = busy_params(spec)
    ours = np.asarray(output_logits(spec, params, jnp.asarray(hidden_of(spec, params))))
    for row in (0, 1):
        expected = numpy_decoder(spec, params, IDS[row])
        assert np.ptp(expected) > 1.0
        np.testing.assert_allclose(ours[row], expected, atol=1e-5, rtol=1e-5)


@every_style
def test_later_tokens_do_not_change_earlier_states(spec):
    params, changed = busy_params(spec), IDS.copy()
    changed[:, 4] = (IDS[:, 4] + 1) % 13
    before, after = hidden_of(spec, params), hidden_of(spec, params, changed)
    np.testing.assert_array_equal(before[:, :4], after[:, :4])
    assert np.all(np.abs(before[:, 4:] - after[:, 4:]).max(axis=2) > 1e-3)


def test_the_gradient_of_a_state_reaches_no_later_token():
    spec, params = CLASSIC, busy_params(CLASSIC)
    ids, mask = jnp.arange(LENGTH)[None], jnp.ones((1, LENGTH), bool)  # token t is word t

    def state(embedding):
        hidden = apply_decoder(spec, params | {"embedding": embedding}, ids, positions_of(mask), mask)
        return jnp.sum(hidden[0, 3] ** 2)

    gradient = np.abs(np.asarray(jax.jit(jax.grad(state))(params["embedding"]))).max(axis=1)
    assert np.all(gradient[:4] > 0)
    assert np.all(gradient[4:] == 0)


@every_style
def test_padding_on_either_side_changes_nothing(spec):
    params = busy_params(spec)
    ids, mask = (IDS + 1) % 13, np.zeros_like(REAL)
    for row, start in enumerate((0, 3, 1)):  # right, left, and both
        ids[row, start : start + 5] = IDS[row, :5]
        mask[row, start : start + 5] = True
    padded, plain = hidden_of(spec, params, ids, mask), hidden_of(spec, params)
    assert np.all(np.isfinite(padded))
    for row in range(ROWS):
        np.testing.assert_allclose(padded[row][mask[row]], plain[row, :5], atol=1e-5, rtol=1e-5)


@every_style
def test_packed_segments_are_separate_rows(spec):
    params = busy_params(spec)
    ids = np.tile(np.concatenate([IDS[0, :4], IDS[1, :3], [5]]), (ROWS, 1))
    segments = jnp.tile(jnp.array([1, 1, 1, 1, 2, 2, 2, 0]), (ROWS, 1))
    positions = jnp.tile(jnp.array([0, 1, 2, 3, 0, 1, 2, 0], jnp.int32), (ROWS, 1))
    packed = np.asarray(decode(spec, params, jnp.asarray(ids), positions, segments))[0]
    plain = hidden_of(spec, params)
    np.testing.assert_allclose(packed[:4], plain[0, :4], atol=1e-5, rtol=1e-5)
    np.testing.assert_allclose(packed[4:7], plain[1, :3], atol=1e-5, rtol=1e-5)


@every_style
def test_decoding_with_a_cache_is_the_whole_forward_pass(spec):
    # Left-padded prompts of 2, 5 and 4 tokens in 5 slots, then three tokens one by one.
    params, mask = busy_params(spec), REAL.copy()
    mask[0, :3] = mask[2, :1] = False
    whole = hidden_of(spec, params, mask=mask)
    ids, positions = jnp.asarray(IDS), positions_of(jnp.asarray(mask))
    seen = jnp.asarray(np.tril(np.ones((LENGTH, LENGTH), bool)) & mask[:, None])
    start = (leaf[:, :5] for leaf in (ids, positions, jnp.asarray(mask)))
    hidden, cache = jax.jit(fill_cache, static_argnums=(0, 5))(spec, params, *start, LENGTH)
    states = [hidden]
    for slot in range(5, LENGTH):
        now = slice(slot, slot + 1)
        hidden, cache = extend(spec, params, ids[:, now], positions[:, now], seen[:, now], cache, slot)
        states.append(hidden)
    cached = np.concatenate(states, axis=1)
    np.testing.assert_allclose(cached[mask], whole[mask], atol=1e-5, rtol=1e-5)


PICKED = np.array([[7, 1], [0, 5], [3, 3]])  # of each row, a token twice too
DEPTHS = {
    "one_layer": dataclasses.replace(STYLES["windows"], depth=1, local=(True,)),
    "both_kinds_before_the_last": dataclasses.replace(STYLES["windows"], depth=3, local=(True, False, True)),
}


@pytest.mark.parametrize("spec", (STYLES | DEPTHS).values(), ids=STYLES | DEPTHS)
def test_what_nobody_reads_of_the_last_layer_is_not_missed(spec):
    """States of the tokens that are read, all keys and values, gradients; and the products that are left out."""
    params, ids, real = busy_params(spec), jnp.asarray(IDS), jnp.asarray(REAL)
    positions = positions_of(real)

    def pick(x):
        return jnp.take_along_axis(x, PICKED.reshape(*PICKED.shape, *[1] * (x.ndim - 2)), axis=1)

    def loss(params, early):
        hidden, cache = fill_cache(spec, params, ids, positions, real, LENGTH, pick if early else None)
        hidden = hidden if early else pick(hidden)
        weights = jnp.arange(1.0, 1.0 + hidden.size).reshape(hidden.shape) / hidden.size
        return jnp.sum(weights * hidden) + sum(jnp.sum(jnp.sin(leaf)) for leaf in jax.tree.leaves(cache)), hidden

    def flops(early):
        compiled = jax.jit(lambda params: loss(params, early)[1]).lower(params).compile()
        return compiled.cost_analysis()["flops"]

    (_, late), late_slopes = jax.jit(jax.value_and_grad(lambda params: loss(params, False), has_aux=True))(params)
    (_, early), early_slopes = jax.jit(jax.value_and_grad(lambda params: loss(params, True), has_aux=True))(params)
    np.testing.assert_allclose(early, late, atol=1e-5, rtol=1e-5)
    scale = max(float(jnp.max(jnp.abs(leaf))) for leaf in jax.tree.leaves(late_slopes))
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-5 * scale, rtol=1e-4), early_slopes, late_slopes)
    matrices = spec.heads * spec.head_dim * spec.width + (2 + ("glu" in spec.activation)) * spec.width * spec.mlp_width
    left_out = 2 * matrices * (REAL.size - PICKED.size)
    assert flops(False) - flops(True) >= left_out


@pytest.mark.parametrize("kv_heads", [1, 2])
def test_grouped_queries_are_many_heads_with_repeated_keys_and_values(kv_heads):
    grouped = style("rms", "rotary", "swiglu", True, kv_heads)
    full = style("rms", "rotary", "swiglu", True, 4)
    params = busy_params(grouped)
    attention = params["layers"]["attention"]

    def repeat(kernel):  # (L, D, kv * C) -> (L, D, heads * C)
        return np.repeat(np.reshape(kernel, (2, 16, kv_heads, 4)), 4 // kv_heads, axis=2).reshape(2, 16, 16)

    repeated = {name: {"kernel": jnp.asarray(repeat(attention[name]["kernel"]))} for name in "kv"}
    full_params = params | {"layers": params["layers"] | {"attention": attention | repeated}}
    np.testing.assert_allclose(hidden_of(grouped, params), hidden_of(full, full_params), atol=1e-5, rtol=1e-5)


def test_rotation_by_hand():
    # C = 4, theta = 100: frequencies 1 and 1/10; pairs (0, 2) and (1, 3)
    x = jnp.array([1.0, 1.0, 0.0, 0.0]).reshape(1, 1, 1, 4)
    turned = rotate(x, turns(jnp.array([[2]]), frequencies(4, 100.0, None, jnp.dtype("float32"))))[0, 0, 0]
    np.testing.assert_allclose(turned, (math.cos(2), math.cos(0.2), math.sin(2), math.sin(0.2)), rtol=1e-5)


def test_rotated_products_depend_on_the_distance_alone():
    rng = np.random.default_rng(5)
    query, key = (jnp.asarray(rng.normal(size=(1, 1, 1, 8)), jnp.float32) for _ in range(2))
    speed = frequencies(8, 10_000.0, None, jnp.dtype("float32"))

    def product(m, n):
        at = [rotate(x, turns(jnp.array([[p]]), speed)) for x, p in ((query, m), (key, n))]
        return float(jnp.sum(at[0] * at[1]))

    for m, n, shift in itertools.product((0, 5), (2, 3), (1, 40)):
        assert product(m, n) == pytest.approx(product(m + shift, n + shift), abs=1e-4)
    assert abs(product(0, 2) - product(0, 3)) > 1e-2


def test_frequencies_scaled_for_longer_texts():
    plain = 100.0 ** (-np.arange(8) / 8)
    made = 64 * plain / (2 * np.pi)  # over the 64 positions of pre-training: from 10 down to 0.2
    wide = jnp.dtype("float32")

    def found(*scaling):
        return np.asarray(frequencies(16, 100.0, RopeScaling(*scaling), wide))

    np.testing.assert_allclose(found("linear", 4.0), plain / 4, rtol=1e-6)
    # Llama 3.1: more than 4 turns stay, fewer than 1 are 8 times slower, between the two they are mixed by turns.
    kept = np.interp(made, [1.0, 4.0], [0.0, 1.0])
    np.testing.assert_allclose(found("llama3", 8.0, 64, 1.0, 4.0), plain * kept + plain / 8 * (1 - kept), rtol=1e-5)
    # YaRN: the same with a ramp over channels, from the last that makes 4 turns to the first that makes 1.
    first, last = np.flatnonzero(made >= 4.0)[-1], np.flatnonzero(made <= 1.0)[0]
    kept = np.interp(np.arange(8), [first, last], [1.0, 0.0])
    assert 0 < first < last < 7
    np.testing.assert_allclose(found("yarn", 8.0, 64, 1.0, 4.0), plain * kept + plain / 8 * (1 - kept), rtol=1e-5)


def test_a_gain_multiplies_what_rotates_and_nothing_else():
    x, speed = jnp.ones((1, 1, 1, 6)), frequencies(4, 100.0, None, jnp.dtype("float32"))
    found = rotate(x, turns(jnp.array([[3]]), speed, 2.0))[0, 0, 0]
    np.testing.assert_allclose(found[:4], 2 * rotate(x, turns(jnp.array([[3]]), speed))[0, 0, 0, :4], rtol=1e-6)
    np.testing.assert_array_equal(found[4:], 1.0)


@pytest.mark.parametrize("changes", [{"local": (True,)}, {"window": 3}, {"local": (True, False)}])
def test_windows_that_fit_no_layer_are_refused(changes):
    with pytest.raises(ValueError, match=r"local|window"):
        dataclasses.replace(MODERN, **changes)


def test_shifting_all_positions_matters_to_learned_ones_only():
    difference = {}
    for name, spec in (("rotary", MODERN), ("learned", CLASSIC)):
        params, positions = busy_params(spec), positions_of(jnp.asarray(REAL))
        states = [decode(spec, params, jnp.asarray(IDS), positions + by, jnp.asarray(REAL)) for by in (0, 9)]
        difference[name] = float(jnp.max(jnp.abs(states[0] - states[1])))
    assert difference["rotary"] < 1e-4
    assert difference["learned"] > 1e-1


@every_style
def test_the_number_of_parameters(spec):
    norm = spec.width * (2 if spec.norm == "layer" else 1)
    q, kv = spec.heads * spec.head_dim, spec.kv_heads * spec.head_dim
    attention = 2 * spec.width * (q + kv) + spec.qkv_bias * (q + 2 * kv) + spec.out_bias * spec.width
    attention += 2 * spec.head_dim * spec.qk_norm
    gated = spec.activation in ("swiglu", "geglu")
    mlp = (3 if gated else 2) * spec.width * spec.mlp_width + spec.mlp_bias * (spec.mlp_width + spec.width)
    layer = attention + mlp + (4 if spec.post_norms else 2) * norm
    expected = spec.vocab_size * spec.width * (1 if spec.tied else 2) + spec.depth * layer + norm
    expected += spec.max_positions * spec.width if spec.positions == "learned" else 0
    params = jax.eval_shape(functools.partial(init_decoder, spec), jax.random.key(0))
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == expected


def test_a_fresh_decoder():
    params = jax.jit(init_decoder, static_argnums=0)(MODERN, jax.random.key(0))
    kernel = params["layers"]["up"]["kernel"]
    assert float(jnp.max(jnp.abs(kernel[0] - kernel[1]))) > 0.01  # layers do not share their draw
    # An embedding of deviation .02 times a hidden state of norm sqrt(16): the first softmax is all but uniform.
    logits = output_logits(MODERN, params, jnp.asarray(hidden_of(MODERN, params)))
    assert 0.0 < float(jnp.max(jnp.abs(logits))) < 0.5


def test_bfloat16_computes_in_bfloat16_on_float32_parameters():
    spec = dataclasses.replace(MODERN, dtype="bfloat16")
    shapes = jax.eval_shape(functools.partial(init_decoder, spec), jax.random.key(0))
    assert {leaf.dtype for leaf in jax.tree.leaves(shapes)} == {jnp.dtype("float32")}
    params = jax.tree.map(lambda leaf: leaf * 0.5, busy_params(MODERN))
    narrow, wide = hidden_of(spec, params), hidden_of(MODERN, params)
    assert narrow.dtype == jnp.bfloat16
    assert output_logits(spec, params, jnp.asarray(narrow)).dtype == jnp.bfloat16
    # Eight bits of mantissa, two layers: a few hundredths of the size.
    assert np.abs(narrow.astype(np.float32) - wide).mean() < 0.05 * np.abs(wide).mean()
