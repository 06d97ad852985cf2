"""Every family computes what transformers' PyTorch models computed: logits kept by tests/parity/golden_logits.py."""

import functools
import json
import pathlib

import jax
import numpy as np
import pytest

from rlhf_jax.models import apply_decoder, hf, output_logits, positions_of
from tests.models.seeded import batch, sample, write_folder

GOLDEN = json.loads((pathlib.Path(__file__).parent / "golden_logits.json").read_text())["cases"]
TOLERANCE = 1e-4


@functools.partial(jax.jit, static_argnums=0)
def logits_of(spec, params, ids, mask):
    return output_logits(spec, params, apply_decoder(spec, params, ids, positions_of(mask), mask))


@pytest.mark.parametrize("name", GOLDEN)
def test_logits_are_those_of_transformers(name, tmp_path):
    case = GOLDEN[name]
    write_folder(tmp_path, case["config"], case["tensors"])
    spec, params = hf.load(tmp_path)
    found = sample(np.asarray(logits_of(spec, params, *batch()))).ravel()
    assert np.std(case["logits"]) > 0.3
    np.testing.assert_allclose(found, case["logits"], atol=TOLERANCE, rtol=0)


def test_every_family_is_here():
    assert {case["config"]["model_type"] for case in GOLDEN.values()} == {family.model_type for family in hf.FAMILIES}
