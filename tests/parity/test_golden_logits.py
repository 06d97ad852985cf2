"""The committed logits are still those of transformers' models. ``make parity``."""

import json

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs PyTorch, which is in the extra `parity`: run `make parity`")

from tests.parity.golden_logits import PATH, golden


def test_the_committed_logits_are_those_of_today():
    kept, made = json.loads(PATH.read_text())["cases"], golden()["cases"]
    assert list(kept) == list(made)
    for name, case in made.items():
        assert (kept[name]["config"], kept[name]["tensors"]) == (case["config"], case["tensors"]), name
        np.testing.assert_allclose(kept[name]["logits"], case["logits"], atol=1e-5, rtol=0, err_msg=name)
