"""Which prompts people should be asked about: those where the reward model knows least which answer is better."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from rlhf_jax.data.label_studio import task
from rlhf_jax.diagnostics.uncertainty import pair_uncertainty


@dataclasses.dataclass(frozen=True)
class Chosen:
    """A task for people, and what the model thought of it: the uncertainty (nats) and the rewards of the texts shown,
    in the order in which they are shown, by each member.
    """

    task: dict[str, Any]
    uncertainty: float
    rewards: Float[np.ndarray, "n M"]


def choose_tasks(
    kind: str,
    prompts: Sequence[str],
    prompt_types: Sequence[str],
    texts: Sequence[Sequence[str]],
    rewards: Float[np.ndarray, "P n M"],
    *,
    count: int,
    seed: int,
) -> list[Chosen]:
    """The ``count`` prompts with the largest uncertainty, most uncertain first; fewer if there are not so many.

    ``pairwise``: of each prompt the two different texts about which the model knows least. ``ranking``: all different
    texts, by the mean over their pairs. Prompts without two different texts are left out. Sides and orders are drawn at
    random, for people favour places.
    """
    rng = np.random.default_rng(seed)
    found = []
    for place in range(len(prompts)):
        first = {text: column for column, text in reversed(list(enumerate(texts[place])))}
        kept = sorted(first.values())
        if len(kept) < 2:
            continue
        unsure = pair_uncertainty(rewards[place, kept])
        i, j = np.triu_indices(len(kept), k=1)
        if kind == "pairwise":
            most = int(np.argmax(unsure[i, j]))
            kept, value = [kept[i[most]], kept[j[most]]], unsure[i[most], j[most]]
        else:
            value = unsure[i, j].mean()
        found.append((float(value), place, [kept[at] for at in rng.permutation(len(kept))]))
    found.sort(key=lambda one: -one[0])  # stable: of equals the earlier prompt
    return [
        Chosen(
            task(
                kind,
                prompts[place],
                [texts[place][column] for column in kept],
                {"prompt_index": place},
                prompt_types[place],
            ),
            value,
            rewards[place, kept],
        )
        for value, place, kept in found[:count]
    ]
