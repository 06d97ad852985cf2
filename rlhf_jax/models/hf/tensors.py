"""Names and layouts of tensors: which of theirs is which of ours."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np
from jaxtyping import Float

from rlhf_jax.models.spec import DecoderSpec

Shape: TypeAlias = tuple[int, ...]
Arrays: TypeAlias = Sequence[Float[np.ndarray, "..."]]


@dataclasses.dataclass(frozen=True)
class Layout:
    """How one tensor of theirs holds one or more of ours. ``split`` may return views, and works on memory-mapped data.

    ``shape`` is the shape of theirs that holds ours of given shapes.
    """

    split: Callable[[DecoderSpec, np.ndarray], Arrays]
    join: Callable[[DecoderSpec, Arrays], np.ndarray]
    shape: Callable[[DecoderSpec, Sequence[Shape]], Shape]


@dataclasses.dataclass(frozen=True)
class Tensor:
    """``theirs``: its name, with {} for the number of the layer. ``ours``: paths of what it holds.

    A decoder without these parameters has no such tensor; one that is ``filled`` is then written as zeros, and has to
    be zeros when it is read.
    """

    theirs: str
    ours: tuple[str, ...]
    layout: Layout
    filled: bool = False


# As it stands: vectors, embeddings, kernels of GPT-2.
SAME = Layout(lambda spec, a: (a,), lambda spec, parts: parts[0], lambda spec, shapes: shapes[0])
# Weights of linear layers are (outputs, inputs), kernels (inputs, outputs).
LINEAR = Layout(lambda spec, a: (a.T,), lambda spec, parts: parts[0].T, lambda spec, shapes: shapes[0][::-1])


def same(theirs: str, ours: str) -> Tensor:
    """A tensor that both keep alike."""
    return Tensor(theirs, (ours,), SAME)


def linear(theirs: str, ours: str) -> tuple[Tensor, Tensor]:
    """Weight and bias of a linear layer."""
    return Tensor(f"{theirs}.weight", (f"{ours}/kernel",), LINEAR), same(f"{theirs}.bias", f"{ours}/bias")


def layer_norm(theirs: str, ours: str) -> tuple[Tensor, Tensor]:
    """Weight and bias of a norm; one without a bias has none."""
    return same(f"{theirs}.weight", f"{ours}/scale"), same(f"{theirs}.bias", f"{ours}/bias")


# ------------------------------------------------------------------------- queries, keys and values in one


def _columns_split(spec: DecoderSpec, fused: np.ndarray) -> Arrays:
    query, key, value = np.split(fused, 3, axis=-1)
    return query, _grouped(spec, key), _grouped(spec, value)


def _columns_join(spec: DecoderSpec, parts: Arrays) -> np.ndarray:
    query, key, value = parts
    return np.concatenate([query, _repeated(spec, key), _repeated(spec, value)], axis=-1)


def _repeated(spec: DecoderSpec, part: np.ndarray) -> np.ndarray:
    heads = part.reshape(*part.shape[:-1], spec.kv_heads, spec.head_dim)
    return heads.repeat(spec.heads // spec.kv_heads, axis=-2).reshape(*part.shape[:-1], -1)


def _grouped(spec: DecoderSpec, part: np.ndarray) -> np.ndarray:
    if spec.kv_heads == spec.heads:
        return part
    heads = part.reshape(*part.shape[:-1], spec.heads, spec.head_dim)
    grouped = heads[..., :: spec.heads // spec.kv_heads, :].reshape(*part.shape[:-1], -1)
    if not np.array_equal(_repeated(spec, grouped), part):
        raise ValueError(f"key and value heads are not those of {spec.kv_heads} repeated")
    return grouped


# GPT-2: side by side. It knows no grouped-query attention: each key-value head is repeated for the query heads that it
# serves, which gives the same numbers and takes more memory.
COLUMNS = Layout(_columns_split, _columns_join, lambda spec, shapes: (*shapes[0][:-1], 3 * shapes[0][-1]))


def _by_head_split(spec: DecoderSpec, fused: np.ndarray) -> Arrays:
    heads = fused.reshape(spec.heads, 3, spec.head_dim, *fused.shape[1:])
    return tuple(heads[:, place].reshape(-1, *fused.shape[1:]).T for place in range(3))


def _by_head_join(spec: DecoderSpec, parts: Arrays) -> np.ndarray:
    rows = [part.T.reshape(spec.heads, spec.head_dim, *part.shape[:-1]) for part in parts]
    return np.stack(rows, axis=1).reshape(-1, *parts[0].shape[:-1])


# GPT-NeoX: query, key and value of the first head, then of the second, and so on; (outputs, inputs).
BY_HEAD = Layout(_by_head_split, _by_head_join, lambda spec, shapes: (3 * shapes[0][-1], *shapes[0][:-1]))
