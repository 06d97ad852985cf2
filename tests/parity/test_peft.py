"""Exported adapters in PEFT's own code, on the exported base, give the logits of the merged model."""

import numpy as np
import pytest

from rlhf_jax.main import main
from tests.commands.test_export_adapter import CASES, make_run

torch = pytest.importorskip("torch", reason="needs PyTorch, which is in the extra `parity`: run `make parity`")
peft = pytest.importorskip("peft")
transformers = pytest.importorskip("transformers")

TOLERANCE = 1e-4
IDS = [[5, 17, 3, 40, 8, 21], [9, 2, 33, 6, 77, 50]]


@pytest.mark.parametrize("case", CASES)
def test_an_adapter_on_its_base_is_the_merged_model(case, tmp_path, recwarn):
    stage = CASES[case][2]
    run = make_run(tmp_path / "run", *CASES[case])
    for name, words in (("merged", []), ("base", ["--base"]), ("adapter", ["--adapter"])):
        main(["export", str(run), f"--stage={stage}", f"--out={tmp_path / name}", *words])
    auto = transformers.AutoModelForSequenceClassification if stage == "reward" else transformers.AutoModelForCausalLM
    merged = auto.from_pretrained(tmp_path / "merged").eval()
    adapted = peft.PeftModel.from_pretrained(auto.from_pretrained(tmp_path / "base"), tmp_path / "adapter").eval()
    plain = auto.from_pretrained(tmp_path / "base").eval()
    with torch.no_grad():
        ours, theirs, without = (
            model(input_ids=torch.tensor(IDS)).logits.numpy() for model in (merged, adapted, plain)
        )
    size = np.abs(ours).max()
    np.testing.assert_allclose(theirs, ours, atol=TOLERANCE * size, rtol=0)
    assert np.abs(without - ours).max() > 100 * TOLERANCE * size
    assert not [str(one.message) for one in recwarn if "missing" in str(one.message) or "nexpected" in str(one.message)]
