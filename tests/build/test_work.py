"""Model FLOPs against products counted by hand, and against the products of the programs that are traced."""

import math
import pathlib
import re
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from rlhf_jax.build.work import backward, decoding, matrices, reading_lists, reading_rows
from rlhf_jax.generation import SamplingSpec
from rlhf_jax.generation.decode import generate
from rlhf_jax.models import DecoderSpec, apply_decoder, init_decoder, output_logits, positions_of, read_lists
from rlhf_jax.parallel.hlo import read_program
from rlhf_jax.types import ListTokens

SPEC = DecoderSpec(
    vocab_size=11, width=8, depth=3, heads=4, kv_heads=2, mlp_width=6, max_positions=16, attention="plain"
)


def _flops_of_products(jaxpr: Any, turns: int = 1) -> float:
    """Of all products of a traced program, scans counted by their length and other loops as turning so often."""
    total = 0.0
    for equation in jaxpr.eqns:
        name, params = equation.primitive.name, equation.params
        if name == "dot_general":
            (left, _), _ = params["dimension_numbers"]
            summed = math.prod(equation.invars[0].aval.shape[axis] for axis in left)
            total += 2.0 * math.prod(equation.outvars[0].aval.shape) * summed
        times = params["length"] if name == "scan" else turns if name == "while" else 1
        inner = [getattr(one, "jaxpr", one) for one in params.values()]
        total += times * sum(_flops_of_products(one, turns) for one in inner if hasattr(one, "eqns"))
    return total


@pytest.fixture(autouse=True)
def every_layer_in_full(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on an accelerator: the last one is not told apart."""
    monkeypatch.setattr("rlhf_jax.models.decoder._WRITTEN_OUT", 0)


def test_matrices_by_hand() -> None:
    """A layer's q and o are 8 x 8, k and v 8 x 4, and three are 8 x 6."""
    assert matrices(SPEC) == 3 * (2 * 64 + 2 * 32 + 3 * 48)


def test_reading_rows_is_what_a_forward_pass_multiplies() -> None:
    params = jax.eval_shape(lambda: init_decoder(SPEC, jax.random.key(0)))
    ids, mask = jnp.zeros((5, 7), jnp.int32), jnp.ones((5, 7), bool)

    def forward(params: object) -> jax.Array:
        return apply_decoder(SPEC, params, ids, positions_of(mask), mask)

    def logits(params: object) -> jax.Array:
        return output_logits(SPEC, params, jnp.zeros((5, 2, 8)))

    by_trace = sum(_flops_of_products(jax.make_jaxpr(function)(params).jaxpr) for function in (forward, logits))
    assert reading_rows(SPEC, 5, 7, 2) == by_trace == 2 * 1008 * 35 + 4 * 3 * 8 * 5 * 49 + 2 * 8 * 11 * 10


def test_decoding_is_a_prompt_read_and_one_token_after_the_other() -> None:
    """By hand: of 4 tokens of prompt and 3 of response the last is drawn and not read; 4 or 7 slots are looked at."""
    products = 2 * 1008 * 5 * 6
    assert decoding(SPEC, 5, 4, 3) == products + 4 * 3 * 8 * 5 * (4 * 4 + 2 * 7) + 2 * 8 * 11 * 5 * 3


def test_decoding_is_what_the_program_multiplies() -> None:
    params = jax.eval_shape(lambda: init_decoder(SPEC, jax.random.key(0)))
    ids, mask = jnp.zeros((5, 4), jnp.int32), jnp.ones((5, 4), bool)

    def sample(params: object, most: int) -> jax.Array:
        keys = jax.random.split(jax.random.key(0), 5)
        sampling = SamplingSpec(temperature=1.0, top_k=0, top_p=1.0)
        found = generate(SPEC, params, ids, mask, keys, max_new_tokens=most, sampling=sampling, eos_id=1, pad_id=0)
        return found.ids

    traced = jax.make_jaxpr(lambda params: sample(params, 3))(params).jaxpr
    assert _flops_of_products(traced, turns=2) == decoding(SPEC, 5, 4, 3)  # the first token is drawn before the loop


def test_a_plan_of_long_responses_counts_every_loop_of_all_rows_up_to_its_end() -> None:
    """By hand, of 16 rows and 256 tokens: the first 127 steps see half of the cache's slots, the next 128 all, and no
    row is left to the loop of 8.
    """
    rows, prompt, most = 16, 4, 256
    params = jax.eval_shape(lambda: init_decoder(SPEC, jax.random.key(0)))
    sample = partial(generate, SPEC, max_new_tokens=most, sampling=SamplingSpec(), eos_id=1, pad_id=0)
    ids, mask = jnp.zeros((rows, prompt), jnp.int32), jnp.ones((rows, prompt), bool)
    compiled = jax.jit(sample).lower(params, ids, mask, jax.random.split(jax.random.key(0), rows)).compile()
    tokens = 2 * 1008 * rows * (prompt + 255) + 2 * 8 * 11 * rows * 256
    seen = prompt * prompt + 127 * (prompt + 128) + 128 * (prompt + 256)
    assert read_program(compiled.as_text(), {}).flops == tokens + 4 * 3 * 8 * rows * seen


def test_backward() -> None:
    """A matrix's gradient and its input's are as much as the product; adapters leave out the first."""
    assert [backward(10.0, how) for how in ("all", "adapters", "head")] == [30.0, 20.0, 10.0]


def test_reading_lists_is_what_two_levels_multiply() -> None:
    """Four lists of three responses: 5 + 3 x 2 tokens, of which responses look at 7 each and no two at one another."""
    params = jax.eval_shape(lambda: init_decoder(SPEC, jax.random.key(0)))
    lists = ListTokens(
        jnp.zeros((4, 5), jnp.int32), jnp.ones((4, 5), bool), jnp.zeros((4, 3, 2), jnp.int32), jnp.ones((4, 3, 2), bool)
    )
    traced = _flops_of_products(jax.make_jaxpr(lambda params: read_lists(SPEC, params, lists))(params).jaxpr)
    assert reading_lists(SPEC, 4, 3, 5, 2, 0, shared=True) == traced
    assert traced == 2 * 1008 * 4 * 11 + 4 * 3 * 8 * 4 * (5 * 5 + 3 * 2 * 7)
    assert reading_lists(SPEC, 4, 3, 5, 2, 1, shared=False) == reading_rows(SPEC, 12, 7, 1)


def test_two_levels_spare_pairs_a_prompt_and_attend_to_less() -> None:
    """As docs/devices.md has it, of plain attention, and up to where answers of pairs and lists pay beside a kernel."""
    prompt, response, lists = 5, 3, 4
    apart, shared = (reading_lists(SPEC, lists, 2, prompt, response, 2, shared=how) for how in (False, True))
    slots = prompt * prompt + 2 * prompt * response
    assert apart - shared == lists * (2 * matrices(SPEC) * prompt + 4 * 3 * 8 * slots)

    page = (pathlib.Path(__file__).parents[2] / "docs" / "devices.md").read_text().replace(",", "")
    rows = re.findall(r"^\| (\d+) (\d+) ([\d.]+) million \| (\d+) \| (\d+) \| (\d+) \|$", page, re.MULTILINE)
    assert len(rows) == 4
    for width, heads, millions, before, *most in rows:
        size, there = 12 * int(width) ** 2, int(before)
        assert size / 1e6 == pytest.approx(float(millions), rel=5e-3)
        for answers, longest in zip((2, 8), map(int, most), strict=True):
            cost = [600 * int(heads) * answers * own * (there + own) for own in (longest, longest + 1)]
            assert cost[0] < size * (answers - 1) * there <= cost[1]
