"""transformers' ``generate``: samples from the whole vocabulary, as ours does."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from benchmarks.harness.worker import Answer, Case, Line, measured, serve
from benchmarks.sides import pytorch


def main(line: Line, case: Case) -> None:
    """Serve ``sampling``."""
    pytorch.begin(case)
    serve(line, sampling(case) | pytorch.machine())


def sampling(case: Case) -> dict[str, Callable[[], Answer]]:
    """``round`` answers so many prompts; ``check`` has the mean log-probability of what each side sampled last."""
    model = pytorch.policy(case).eval()
    prompts = torch.tensor([one["prompt"] for one in pytorch.read_ids(case)[0][: case["rows"]]])
    eos, width = model.config.eos_token_id, prompts.shape[1]
    last: list[torch.Tensor] = []

    @torch.inference_mode()
    def one_round() -> Answer:
        found: Answer = {}
        with measured(found):
            out = model.generate(
                prompts,
                attention_mask=torch.ones_like(prompts),
                do_sample=True,
                top_k=0,
                max_new_tokens=case["response"][1],
                **case["settings"],
            )
        last[:] = [out[:, width:]]
        lengths = (_before_end(out[:, width:], eos)).sum(1)
        return found | {"units": int(lengths.sum()), "lengths": lengths.tolist()}

    @torch.inference_mode()
    def mean_log_probability(sampled: torch.Tensor, mask: torch.Tensor) -> float:
        total = 0.0
        for part in torch.arange(len(sampled)).split(8):
            whole = torch.cat([prompts[part], sampled[part]], 1)
            law = model(whole).logits[:, width - 1 : -1].log_softmax(-1)
            total += float((law.gather(-1, sampled[part][..., None])[..., 0] * mask[part]).sum())
        return total / float(mask.sum())

    def check() -> Answer:
        found = np.load(Path(case["folder"]) / "ours.npz", allow_pickle=False)
        own = mean_log_probability(last[0], _before_end(last[0], eos))
        other = mean_log_probability(torch.tensor(found["ids"]).long(), torch.tensor(found["mask"]))
        return {"check": own, "check of ours": other}

    return {"round": one_round, "check": check}


def _before_end(ids: torch.Tensor, eos: int) -> torch.Tensor:
    """True up to the first end of sequence, which counts."""
    ends = (ids == eos).long()
    return ends.cumsum(1) - ends == 0
