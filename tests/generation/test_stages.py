"""Rows that have ended leave the loop, and prompts are read once: the samples are those of doing neither."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.generation import SamplingSpec, decode, generate
from rlhf_jax.generation import prompts as reading
from rlhf_jax.generation.decode import Stage, stages_of
from rlhf_jax.models import extend_cache, fill_cache
from rlhf_jax.parallel import MeshExecutor, PmapExecutor

PAD, EOS, SLOTS, ROWS, LENGTH = 0, 1, 32, 16, 4
RULES = {"max_new_tokens": SLOTS, "sampling": SamplingSpec(), "eos_id": EOS, "pad_id": PAD}


def test_stages_by_hand():
    assert stages_of(64, 127, ends=True) == tuple(Stage(size, 127) for size in (64, 32, 16, 8))
    assert [stage.rows for stage in stages_of(512, 64, ends=True)] == [512, 256, 128, 64]
    assert [stage.rows for stage in stages_of(17, 64, ends=True)] == [17, 9]
    assert stages_of(64, 63, ends=True) == stages_of(64, 63, ends=False) == (Stage(64, 63),)
    assert stages_of(15, 127, ends=True) == (Stage(15, 127),)
    assert stages_of(64, 301, ends=False) == (Stage(64, 150), Stage(64, 301))
    assert stages_of(16, 256, ends=True) == (Stage(16, 128), Stage(16, 256), Stage(8, 256))


@pytest.fixture(scope="module")
def one_layer(spec, policy):
    layers = jax.tree.map(lambda leaf: leaf[:1], policy["layers"])
    return dataclasses.replace(spec, depth=1), {**policy, "layers": layers}


@pytest.fixture(scope="module")
def rows(prompts):
    """16 rows of four prompts in turn, with their keys."""
    ids, mask = (jnp.tile(leaf, (ROWS // 4, 1)) for leaf in prompts)
    return ids, mask, jax.random.split(jax.random.key(3), ROWS)


@pytest.fixture(scope="module")
def plain(one_layer, rows):
    """One loop, and every prompt is read."""
    spec, params = one_layer
    program = jax.jit(partial(generate, spec, **RULES)).lower(params, *rows).compile()
    return lambda *rows: jax.tree.map(np.asarray, program(params, *rows))


@pytest.fixture
def short(monkeypatch):
    """What is made for long prompts and responses serves short ones too."""
    for name, value in {"LEAST_TOKENS": SLOTS, "LONG": SLOTS, "LEAST_ROWS": 4}.items():
        monkeypatch.setattr(decode, name, value)
    monkeypatch.setattr(reading, "LEAST_PROMPT", LENGTH)


def same_samples(out, other):
    np.testing.assert_array_equal(out.ids, other.ids)
    np.testing.assert_array_equal(out.mask, other.mask)
    np.testing.assert_allclose(out.logprobs, other.logprobs, atol=1e-5)


def steps(lengths):
    """(rows, slots of the cache) of each step, by hand: SLOTS / 2 with half a cache, halves of 16 rows down to 4."""
    sizes, expected = [ROWS, ROWS // 2, ROWS // 4], []
    for t in range(1, lengths.max()):
        while len(sizes) > 1 and np.sum(lengths > t) <= sizes[1]:
            sizes.pop(0)
        half = len(sizes) == 3 and t < SLOTS // 2
        expected.append((sizes[0], LENGTH + (SLOTS // 2 if half else SLOTS)))
    return expected


def test_samples_know_nothing_of_what_was_spared(one_layer, rows, plain, short, monkeypatch):
    spec, params = one_layer
    read, extended = [], []

    def reads(spec, params, ids, *rest):
        jax.debug.callback(lambda: read.append(len(ids)))
        return fill_cache(spec, params, ids, *rest)

    def extends(spec, params, ids, positions, mask, *rest):
        jax.debug.callback(lambda: extended.append((len(ids), mask.shape[2])))
        return extend_cache(spec, params, ids, positions, mask, *rest)

    monkeypatch.setattr(reading, "fill_cache", reads)
    monkeypatch.setattr(decode, "extend_cache", extends)
    program = jax.jit(partial(generate, spec, **RULES, samples=4))
    own = jnp.asarray(np.random.default_rng(0).integers(2, 11, rows[0].shape), jnp.int32)
    side_by_side = np.argsort(np.arange(ROWS) % 4, kind="stable")
    cases = {
        "prompts in turn": (rows, 4),
        "prompts side by side": (tuple(leaf[side_by_side] for leaf in rows), 4),
        "a prompt for each row": ((own, *rows[1:]), ROWS),
        "rows that end later": ((*rows[:2], jax.random.split(jax.random.key(4), ROWS)), 4),
    }
    for name, (given, prompts_read) in cases.items():
        read.clear(), extended.clear()
        found, expected = jax.tree.map(np.asarray, program(params, *given)), plain(*given)
        jax.effects_barrier()
        same_samples(found, expected)
        lengths = expected.mask.sum(axis=1)
        assert read == [prompts_read], name
        assert extended == steps(lengths), name
        assert len({rows for rows, _ in extended}) > 2, name  # or there was nothing to see
    assert program._cache_size() == 1


def test_responses_of_fixed_length_begin_with_half_a_cache(one_layer, rows, plain, short):
    spec, params = one_layer
    fixed = jax.jit(partial(generate, spec, **{**RULES, "eos_id": -1}))
    out, ending = jax.tree.map(np.asarray, fixed(params, *rows)), plain(*rows)
    assert out.mask.all()
    np.testing.assert_array_equal(out.ids[ending.mask], ending.ids[ending.mask])
    np.testing.assert_allclose(out.logprobs[ending.mask], ending.logprobs[ending.mask], atol=1e-5)
    assert ending.mask.sum(axis=1).max() == SLOTS  # so that the second half was compared too


@pytest.mark.parametrize("make", [PmapExecutor, MeshExecutor])
def test_devices_sample_what_one_does(one_layer, rows, plain, short, make):
    """Mapped over two devices each compacts its own 8 rows; on a mesh of them no row leaves its loop."""
    spec, params = one_layer
    executor = make(jax.devices()[:2])

    def function(params, ids, mask, keys, axis_name):
        return (tuple(generate(spec, params, ids, mask, keys, samples=2, **RULES)),)

    compiled = executor.compile(function, ("state", "rows", "rows", "rows"), ("rows",))
    (out,) = compiled(executor.place(params, "state"), *(executor.place(leaf, "rows") for leaf in rows))
    same_samples(decode.Completions(*map(np.asarray, out)), plain(*rows))
