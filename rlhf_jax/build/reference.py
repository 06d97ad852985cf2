"""What the reference policy makes of the lists of a run: found once, and kept in the run directory to go on with."""

import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from rlhf_jax.build.context import Context, stage_directory
from rlhf_jax.build.programs import Program
from rlhf_jax.checkpoints import Checkpoints
from rlhf_jax.data.examples import ListExample
from rlhf_jax.data.preference import PreferenceShape, preference_eval_batches
from rlhf_jax.learners import preference
from rlhf_jax.parallel import is_first, to_host
from rlhf_jax.types import Params, PreferenceBatch

# (reference's parameters, batch) -> its ref_logprobs (B, K)
Reader = Callable[[Params, PreferenceBatch], Any]


def reading(spec: preference.PreferenceSpec) -> Program:
    """The summed log-probabilities of a batch's responses under a reference: (its parameters, batch)."""

    def read(params: Params, batch: PreferenceBatch, axis_name: str | None) -> tuple[Any]:
        return (preference.response_logprobs(spec, params, batch),)

    return Program("dpo.reference", read, ("state", "rows"), ("rows",))


def make_reader(context: Context, spec: preference.PreferenceSpec) -> Reader:
    """``reading``, compiled."""
    compiled = reading(spec).compile(context.executor)
    return lambda reference, batch: compiled(reference, context.executor.place(batch, "rows"))[0]


def reference_logprobs(
    context: Context,
    reader: Reader,
    reference: Params,
    lists: Sequence[ListExample],
    shape: PreferenceShape,
    batch_size: int,
    name: str,
) -> Float[np.ndarray, "L K"]:
    """Of all lists in their order; read from ``reference/NAME.npz`` of the run if it has them of these very lists and
    this checkpoint of the SFT policy, whose parameters are ``reference``.
    """
    path = context.workdir / "reference" / f"{name}.npz"
    mark = _fingerprint(context, reference, lists, shape)
    if path.is_file():
        with np.load(path, allow_pickle=False) as kept:
            if str(kept["fingerprint"]) == mark:
                return kept["logprobs"]
    parts = [to_host(reader(reference, batch)) for batch in preference_eval_batches(lists, shape, batch_size)]
    found = np.concatenate(parts)[: len(lists)].astype(np.float32)
    if is_first():
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_name(f"{name}.partial.npz")
        np.savez(unfinished, logprobs=found, fingerprint=np.array(mark))
        os.replace(unfinished, path)
    return found


def _fingerprint(context: Context, reference: Params, lists: Sequence[ListExample], shape: PreferenceShape) -> str:
    """Which lists, in which order and columns, under which checkpoint with which parameters."""
    directory = stage_directory(context, "sft")
    with Checkpoints(directory) as checkpoints:
        step = checkpoints.latest()
    digest = hashlib.sha256(repr((str(Path(directory).absolute()), step, shape.columns, shape.mismatched)).encode())
    for leaf in jax.tree.leaves(reference):  # a folder may hold another run of the same name by now
        digest.update(np.asarray(to_host(leaf)).tobytes())
    for example in lists:
        for ids in (example.prompt, *example.responses):
            digest.update(len(ids).to_bytes(4, "little") + ids.tobytes())
        digest.update(repr(example.ranks).encode())
    return digest.hexdigest()
