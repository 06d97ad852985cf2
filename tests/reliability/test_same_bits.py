"""The same configuration and seed give the same bits, on however many cores, whatever else the machine does."""

import contextlib
import multiprocessing
import os
import pathlib
from collections.abc import Iterator
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.generation.rollout import response_logprobs
from rlhf_jax.models import DecoderSpec, init_decoder
from tests.end_to_end import tiny
from tests.reliability.child import Child
from tests.reliability.conftest import Tally

STAGES = ("sft", "reward", "ppo")
WORDS = (
    f"--config={tiny.ROOT / 'configs' / 'quickstart.py'}",
    *tiny.PIPELINE,
    f"--config.stages={','.join(STAGES)}",
    "--config.log.tensorboard=False",
)


def _spin() -> None:
    while True:
        sum(range(10_000))


@contextlib.contextmanager
def load(processes: int) -> Iterator[None]:
    """So many other processes that want all the time they can get."""
    spinning = [multiprocessing.get_context("spawn").Process(target=_spin, daemon=True) for _ in range(processes)]
    for one in spinning:
        one.start()
    try:
        yield
    finally:
        for one in spinning:
            one.kill()


@pytest.mark.reliability("R21", tries=1, torture=9)
def test_a_run_has_the_same_bits_on_one_core_or_two_and_under_load(tally: Tally, tmp_path: pathlib.Path) -> None:
    """Held to: the first run, on all cores; every other one compiles its programs anew, for the cores that it has."""
    cores = sorted(os.sched_getaffinity(0))
    first = tmp_path / "first"
    child = Child((*WORDS, f"--workdir={first}"), tmp_path / "printed", cores=cores)
    assert child.end() == 0, child.printed.read_text()
    for number in tally.tries:
        with tally.one(f"run {number}"), load(3 if number % 3 == 2 else 0):
            workdir = tmp_path / str(number)
            own = cores if number % 3 else cores[:1]
            child = Child((*WORDS, f"--workdir={workdir}"), tmp_path / "printed", cores=own)
            assert child.end() == 0, child.printed.read_text()
            tiny.assert_same_state(workdir, first, STAGES)
            assert tiny.rows_of(workdir) == tiny.rows_of(first)


@pytest.mark.reliability("R21", tries=50, torture=500)
def test_neighbours_and_padding_do_not_move_log_probabilities(tally: Tally) -> None:
    """Held to: the row alone, without a token of padding."""
    spec = DecoderSpec(vocab_size=31, width=32, depth=2, heads=4, kv_heads=2, mlp_width=48)
    params = init_decoder(spec, jax.random.key(0))
    params["embedding"] = 10 * params["embedding"]  # as sure of its tokens as a trained one
    prompt, response, most_prompt, most_response, rows = 5, 6, 11, 9, 4
    alone = jax.jit(partial(response_logprobs, spec, response_length=response, temperature=1.0))
    among = jax.jit(partial(response_logprobs, spec, response_length=most_response, temperature=1.0))
    rng, spans = np.random.default_rng(0), []
    for number in tally.tries:
        with tally.one(f"row {number}"):
            own = rng.integers(0, 31, prompt + response)
            ids = rng.integers(0, 31, (rows, most_prompt + most_response))  # padding is not zero either
            mask = rng.random(ids.shape) < 2  # the other rows are full
            place, begin = rng.integers(rows), most_prompt - prompt
            ids[place, begin : begin + prompt + response] = own
            mask[place] = False
            mask[place, begin : begin + prompt + response] = True
            wanted = np.asarray(alone(params, own[None], jnp.ones((1, prompt + response), bool)))[0]
            found = np.asarray(among(params, ids, mask))[place, :response]
            spans.append(np.ptp(wanted))
            np.testing.assert_allclose(found, wanted, atol=1e-5)
    assert np.median(spans) > 0.5, "nothing to tell apart"
