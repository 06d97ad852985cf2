"""``python -m tests.parity.golden_logits`` writes ``tests/models/golden_logits.json``: what transformers' models say.

The file holds settings, names and shapes of the tensors and a few logits of every family; the weights follow from
``tests/models/seeded.py``. So ``make test`` compares with PyTorch's numbers and needs no PyTorch.
"""

import json
import pathlib
import tempfile
from typing import Any

import numpy as np
import safetensors
import torch
import transformers

from tests.models.seeded import batch, sample, write_folder
from tests.parity.families import CASES

PATH = pathlib.Path(__file__).resolve().parents[1] / "models" / "golden_logits.json"


def described(name: str) -> tuple[dict[str, Any], dict[str, list[int]]]:
    """The ``config.json`` of a case, and the tensors of its folder with their shapes, as transformers writes them."""
    kind, settings = CASES[name]
    model = transformers.AutoModelForCausalLM.from_config(getattr(transformers, f"{kind}Config")(**settings))
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        config = json.loads(pathlib.Path(folder, "config.json").read_text())
        with safetensors.safe_open(pathlib.Path(folder, "model.safetensors"), "numpy") as file:
            shapes = {key: list(file.get_slice(key).get_shape()) for key in sorted(file.keys())}
    del config["transformers_version"]
    return config, shapes


def logits_of(config: dict[str, Any], tensors: dict[str, list[int]]) -> np.ndarray:
    """Logits (B, T, V) in float32 by transformers' PyTorch model of the seeded folder."""
    with tempfile.TemporaryDirectory() as folder:
        write_folder(pathlib.Path(folder), config, tensors)
        model, info = transformers.AutoModelForCausalLM.from_pretrained(
            folder, output_loading_info=True, attn_implementation="eager"
        )
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")), info
    ids, mask = batch()
    places = np.maximum(np.cumsum(mask, axis=1) - 1, 0)
    given = {"input_ids": ids, "attention_mask": mask, "position_ids": places}
    with torch.no_grad():
        return model.eval()(
            **{key: torch.tensor(value, dtype=torch.long) for key, value in given.items()}
        ).logits.numpy()


def golden() -> dict[str, Any]:
    """The content of the file. Nine digits hold a float32."""
    cases = {}
    for name in CASES:
        config, tensors = described(name)
        logits = [f"{value:.9g}" for value in sample(logits_of(config, tensors)).ravel()]
        cases[name] = {"config": config, "tensors": tensors, "logits": [float(value) for value in logits]}
    return {"made_with": {"torch": torch.__version__, "transformers": transformers.__version__}, "cases": cases}


def main() -> None:
    made = golden()
    lines = [f"{json.dumps(name)}: {json.dumps(case)}" for name, case in made["cases"].items()]
    joined = ",\n".join(lines)
    PATH.write_text(f'{{"made_with": {json.dumps(made["made_with"])},\n"cases": {{\n{joined}\n}}}}\n')


if __name__ == "__main__":
    main()
