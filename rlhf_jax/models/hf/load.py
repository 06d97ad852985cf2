"""Parameters out of stored tensors: all checked first, then one leaf at a time, filled in its place."""

import re
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, TypeAlias

import jax
import numpy as np

from rlhf_jax.errors import UserError
from rlhf_jax.models.decoder import init_decoder
from rlhf_jax.models.hf.family import Family
from rlhf_jax.models.hf.storage import Stored
from rlhf_jax.models.hf.tensors import Tensor
from rlhf_jax.models.spec import DecoderSpec
from rlhf_jax.types import Params

# Where a leaf is to live, by its path, as in "layers/attention/q/kernel".
Placing: TypeAlias = Callable[[str], jax.sharding.Sharding]
# Of a leaf: for each layer (of one without layers once) the stored tensor and which of its parts the leaf is.
Sources: TypeAlias = list[tuple[Tensor, Stored, int]]


def leaf_shapes(spec: DecoderSpec) -> dict[str, jax.ShapeDtypeStruct]:
    """The parameters of a decoder by their paths; nothing is made. Raises UserError for sizes that make none."""
    try:
        tree = jax.eval_shape(partial(init_decoder, spec), jax.random.key(0))
    except Exception as error:  # sizes that make no decoder, in whatever words
        raise UserError(f"config.json makes no decoder: {' '.join(str(error).split())[:200]}") from error
    return {path_of(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def path_of(path: tuple) -> str:
    """A path in the words of the tables of tensors."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def names_of(tensor: Tensor, spec: DecoderSpec) -> Iterator[str]:
    """The names of a tensor: one for each layer if it has a place for the number, else its own."""
    yield from (
        (tensor.theirs.format(layer) for layer in range(spec.depth)) if "{}" in tensor.theirs else (tensor.theirs,)
    )


def of_layer(leaf: jax.ShapeDtypeStruct, tensor: Tensor) -> tuple[int, ...]:
    """The shape that one tensor has to do with: without the axis of layers."""
    return leaf.shape[1:] if "{}" in tensor.theirs else leaf.shape


def match(family: Family, spec: DecoderSpec, stored: Mapping[str, Stored], where: object) -> dict[str, Sources]:
    """The sources of every leaf. Names, shapes and types agree, or nothing is allocated.

    Raises:
      UserError: a tensor is missing, strange, of another shape or of a type that is not read.
    """
    shapes = leaf_shapes(spec)
    bare = not any(name.startswith(family.prefix) for name in stored)
    left = {name for name in stored if not re.search(family.buffers, name)}
    found: dict[str, Sources] = {path: [] for path in shapes}
    for tensor in family.tensors:
        if tensor.ours[0] not in shapes and not tensor.filled:
            continue
        for name in names_of(tensor, spec):
            held = stored.get(name.removeprefix(family.prefix) if bare else name)
            if held is None:
                raise UserError(f"{where}: {name}: missing")
            left.discard(name.removeprefix(family.prefix) if bare else name)
            _check(tensor, name, held, spec, shapes)
            for place, path in enumerate(tensor.ours):
                if path in found:
                    found[path].append((tensor, held, place))
    if spec.tied and (output := next((name for name in left if name in OUTPUTS), None)):
        _check_tied(stored[output], found["embedding"][0][1], f"{where}: {output}")
        left.discard(output)
    if left:
        raise UserError(f"{where}: {min(left)}: not a tensor of {family.causal} ({len(left)} such)")
    empty = next((path for path, sources in found.items() if not sources), None)
    if empty:
        raise AssertionError(f"{family.name} has no tensor for {empty}")
    return found


OUTPUTS = ("lm_head.weight", "embed_out.weight")


def _check(tensor: Tensor, name: str, held: Stored, spec: DecoderSpec, shapes: Mapping[str, Any]) -> None:
    if not held.readable:
        raise UserError(f"{held.file}: {name}: {held.dtype} is not read, only F32, F16, BF16 and F64")
    if tensor.ours[0] in shapes:
        wanted = tensor.layout.shape(spec, [of_layer(shapes[path], tensor) for path in tensor.ours])
        if held.shape != wanted:
            raise UserError(f"{held.file}: {name}: shape {held.shape}, but config.json says {wanted}")
    elif np.any(held.open()):
        raise UserError(f"{held.file}: {name} is not 0, and the decoder has no such bias")


def _check_tied(output: Stored, embedding: Stored, what: str) -> None:
    """A tied decoder has one matrix; a second in the file has to be the same."""
    if output.shape != embedding.shape or any(
        not np.array_equal(one, other) for one, other in zip(output.open(), embedding.open(), strict=True)
    ):
        raise UserError(f"{what}: differs from the embedding, but config.json says that they are tied")


def fill(spec: DecoderSpec, sources: Mapping[str, Sources], vocab_size: int, placing: Placing | None) -> Params:
    """The parameters, each leaf built where it is to live; ``vocab_size`` may be more than is stored.

    Tokens that are not stored get the mean of those that are, so that no logit of theirs leads: of the probability each
    of them takes at most 1 / vocab_size (Jensen). Beside what it has placed this holds one leaf's shard and one tensor.

    Raises:
      UserError: heads that are to be grouped are not repeated.
    """
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    params: Params = {}
    for path, leaf in leaf_shapes(spec).items():
        axis = {"embedding": 0, "output": 1}.get(path)
        shape = tuple(vocab_size if place == axis else size for place, size in enumerate(leaf.shape))
        build = partial(_build, spec, sources[path], shape, leaf.dtype, "layers/" in path, axis)
        sharding = placing(path) if placing else here
        *folders, name = path.split("/")
        node = params
        for folder in folders:
            node = node.setdefault(folder, {})
        node[name] = jax.block_until_ready(jax.make_array_from_callback(shape, sharding, build))
    return params


def _build(
    spec: DecoderSpec,
    sources: Sources,
    shape: tuple[int, ...],
    dtype: np.dtype,
    layers: bool,
    axis: int | None,
    index: tuple[slice, ...],
) -> np.ndarray:
    """The part of a leaf that ``index`` asks for."""
    ranges = [range(*one.indices(size)) for one, size in zip(index, shape, strict=True)]
    built = _aligned(tuple(map(len, ranges)), dtype)
    if layers:
        for place, layer in enumerate(ranges[0]):
            built[place] = _part(spec, *sources[layer])[index[1:]]
        return built
    whole = _part(spec, *sources[0])
    if axis is None or whole.shape[axis] == shape[axis]:
        built[...] = whole[index]
        return built
    tokens, held = ranges[axis], whole.shape[axis]
    known = max(min(tokens.stop, held) - tokens.start, 0)
    rows, target = np.moveaxis(whole, axis, 0), np.moveaxis(built, axis, 0)
    other = index[1 - axis]
    target[:known] = rows[tokens.start : tokens.start + known, other]
    if known < len(tokens):
        target[known:] = np.asarray(np.mean(rows, axis=0, dtype=np.float64))[other]
    return built


def _part(spec: DecoderSpec, tensor: Tensor, held: Stored, place: int) -> np.ndarray:
    try:
        return tensor.layout.split(spec, held.open())[place]
    except ValueError as error:
        raise UserError(f"{held.file}: {tensor.theirs}: {error}") from error


def _aligned(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """An empty array whose memory a CPU device takes as its own instead of copying it: it begins at 64 bytes."""
    size = int(np.prod(shape)) * dtype.itemsize
    raw = np.empty(size + 64, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + size].view(dtype).reshape(shape)
