"""What a tree of arrays is, in a few numbers that show if one bit of it has changed.

The checksum of a leaf is computed where the leaf lies, in one pass over memory that needs none besides; two numbers a
leaf go to the host. It is a sum over elements modulo 2^32, which does not depend on how the
array is split over devices or processes, on its order of summation, or on the backend: integers alone are added.

Each term mixes the bits of an element with its place, by the finaliser of MurmurHash3 (Appleby, public domain), which
maps 32 bits onto 32 one to one. So a single changed element always changes the sum, and several do but for a chance of
2^-64, there being two sums. (A product of the bits with an odd multiplier for each place would notice one changed
element too, but never an even number of flipped signs: 2^31 times a sum of two odd numbers is 0 modulo 2^32.)

It is no defence against somebody who means to deceive.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, UInt32

# Where the two sums begin to differ: the fractions of the golden ratio and of the square root of 3, 32 bits of each.
_LANES = (0x9E3779B9, 0xBB67AE85)


class Leaf(NamedTuple):
    """What is known of an array: its type by name, its shape, and the checksum, "" where only the form is known."""

    dtype: str
    shape: tuple[int, ...]
    checksum: str = ""

    def __str__(self) -> str:
        return f"{self.dtype}[{','.join(map(str, self.shape))}]"


def _mixed(bits: UInt32[Array, "*S"]) -> UInt32[Array, "*S"]:
    """The finaliser of MurmurHash3: one to one, and every bit in depends on every bit out."""
    bits = (bits ^ (bits >> 16)) * jnp.uint32(0x85EBCA6B)
    bits = (bits ^ (bits >> 13)) * jnp.uint32(0xC2B2AE35)
    return bits ^ (bits >> 16)


def _bits(leaf: jax.Array) -> UInt32[Array, "*S"]:
    """The leaf bit by bit: -0 is not 0, and one NaN not another. Of 64 bits the two halves are a last axis."""
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    if leaf.dtype == jnp.bool_:
        return leaf.astype(jnp.uint32)
    if jnp.issubdtype(leaf.dtype, jnp.complexfloating):
        leaf = jnp.stack([leaf.real, leaf.imag], axis=-1)
    width = jax.dtypes.itemsize_bits(leaf.dtype)
    unsigned = jnp.dtype(f"uint{min(width, 32)}")
    return jax.lax.bitcast_convert_type(leaf, unsigned).astype(jnp.uint32)


@jax.jit
def _sums(leaf: jax.Array) -> tuple[UInt32[Array, ""], UInt32[Array, ""]]:
    bits = _bits(leaf)
    # In the shape of the leaf: flat it would have to be gathered from wherever its parts are. Beyond 2^32 elements
    # places repeat, and only an exchange of two of the same place could go unnoticed.
    place, stride = jnp.zeros((), jnp.uint32), 1
    for axis in reversed(range(bits.ndim)):
        along = jax.lax.broadcasted_iota(jnp.uint32, bits.shape, axis)
        place, stride = place + along * jnp.uint32(stride % 2**32), stride * bits.shape[axis]
    mixed = _mixed(bits ^ _mixed(place + jnp.uint32(1)))
    terms = tuple(_mixed(mixed + jnp.uint32(lane)) for lane in _LANES)
    # Both sums by one reduction: of two, XLA makes three passes and keeps the terms, as large as the leaf, in between.
    nothing = (jnp.uint32(0), jnp.uint32(0))
    found: tuple[jax.Array, jax.Array] = jax.lax.reduce(
        terms, nothing, lambda a, b: (a[0] + b[0], a[1] + b[1]), tuple(range(bits.ndim))
    )
    return found


def forms(tree: Any) -> dict[str, Leaf]:
    """Type and shape of every array of a tree of arrays or shapes, by its path, the names joined by dots."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="."): Leaf(str(leaf.dtype), tuple(leaf.shape))
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def digest(tree: Any) -> dict[str, Leaf]:
    """The same with checksums, of a tree of arrays. All processes that hold parts of them must ask for it."""
    # A program for each shape, of which parameters and moments share most; one after the other, for CPU devices of one
    # process share threads, and programs that need not wait for each other keep them from one another for ever.
    sums = [jax.device_get(jax.block_until_ready(_sums(leaf))) for leaf in jax.tree.leaves(tree)]
    return {
        name: leaf._replace(checksum=f"{one:08x}{other:08x}")
        for (name, leaf), (one, other) in zip(forms(tree).items(), sums, strict=True)
    }


def plain(values: Any) -> Any:
    """What comes back of values that are written as JSON and read again: tuples are lists, keys are texts."""
    return json.loads(json.dumps(values))


def fingerprint(values: Any) -> str:
    """The sha256 of what can be written as JSON."""
    return hashlib.sha256(json.dumps(plain(values), sort_keys=True).encode()).hexdigest()


def to_json(leaves: Mapping[str, Leaf]) -> dict[str, list[Any]]:
    return {name: [leaf.dtype, list(leaf.shape), leaf.checksum] for name, leaf in leaves.items()}


def from_json(values: Mapping[str, list[Any]]) -> dict[str, Leaf]:
    return {name: Leaf(dtype, tuple(shape), checksum) for name, (dtype, shape, checksum) in values.items()}
