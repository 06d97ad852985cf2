"""Two ways to compile the same pure function for many devices: ``jax.jit`` over a named mesh, and ``jax.pmap``.

A function handed to ``compile`` takes its arrays in order and a keyword ``axis_name``. Each argument and result is of
one kind: ``rows`` (leading axis split over devices), ``state`` (parameters and what goes with them) or ``replicated``.
Callers see whole arrays in both modes; only inside a pmapped function is the leading axis local.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, Literal, Protocol, TypeAlias, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from rlhf_jax.sharding import tree_shardings
from rlhf_jax.types import DATA, FSDP, SEQUENCE, TENSOR

Kind: TypeAlias = Literal["rows", "state", "replicated"]

# For programs without gradients on CPUs: Eigen's products of 64 rows with a matrix take four fifths of the time of
# YNNPACK's, those of thousands nine tenths (docs/LOG.md, 2026-11-30).
_INFERENCE = {"xla_cpu_experimental_ynn_fusion_type": ""}


@runtime_checkable
class Executor(Protocol):
    """What the rest of the house knows of devices."""

    mesh: Mesh
    row_shards: int

    def place(self, tree: Any, kind: Kind) -> Any:
        """Put a tree of host or device arrays where the kind belongs. The arrays given stay good after donation."""

    def shardings(self, tree: Any, kind: Kind) -> Any:
        """The sharding of each leaf of a tree of arrays or shapes."""

    def make(self, function: Callable[..., Any], *args: Any) -> Any:
        """A state that a pure function makes, each leaf made where it belongs: no device ever holds all of it."""

    def compile(
        self,
        function: Callable[..., Any],
        inputs: Sequence[Kind],
        outputs: Sequence[Kind],
        donate: Sequence[int] = (),
        *,
        inference: bool = False,
    ) -> Callable[..., Any]:
        """The function, compiled; it must return a tuple with one entry for each of ``outputs``. With ``inference`` it
        has no gradient in it.
        """


class MeshExecutor:
    """``jax.jit`` over a (data, fsdp, sequence, tensor) mesh with automatic sharding propagation.

    A function is traced under the abstract mesh, so that models can say where activations belong.
    """

    def __init__(
        self, devices: Sequence[jax.Device], *, data: int = -1, fsdp: int = 1, tensor: int = 1, sequence: int = 1
    ) -> None:
        """``data`` = -1 takes what the others leave. Raises ValueError when the devices do not fill the mesh."""
        taken, sizes = fsdp * sequence * tensor, f"fsdp {fsdp} x sequence {sequence} x tensor {tensor}"
        if data == -1:
            data, left = divmod(len(devices), taken)
            if left:
                raise ValueError(f"{sizes} = {taken} does not divide the number of devices, {len(devices)}")
        elif data * taken != len(devices):
            raise ValueError(f"data {data} x {sizes} = {data * taken}, but the number of devices is {len(devices)}")
        # The last axis has the nearest devices, and tensor the most to tell between them.
        shape = data, fsdp, sequence, tensor
        self.mesh = Mesh(np.asarray(devices).reshape(shape), (DATA, FSDP, SEQUENCE, TENSOR))
        self.row_shards = data * fsdp

    def shardings(self, tree: Any, kind: Kind) -> Any:
        if kind == "state":
            return tree_shardings(tree, self.mesh)
        spec = PartitionSpec((DATA, FSDP)) if kind == "rows" else PartitionSpec()
        return jax.tree.map(lambda _: NamedSharding(self.mesh, spec), tree)

    def make(self, function: Callable[..., Any], *args: Any) -> Any:
        shardings = self.shardings(jax.eval_shape(function, *args), "state")
        return jax.jit(function, out_shardings=shardings)(*args)

    def place(self, tree: Any, kind: Kind) -> Any:
        if jax.process_count() > 1:
            return jax.tree.map(_place_share, tree, self.shardings(tree, kind))
        # A state's memory may be donated to a compiled step: whoever holds the original must not lose it with that.
        # (device_put's may_alias=False does not help: it is not heeded where an array is replicated to more devices.)
        if kind == "state":
            tree = jax.tree.map(jnp.copy, tree)
        return jax.device_put(tree, self.shardings(tree, kind))

    def compile(
        self,
        function: Callable[..., Any],
        inputs: Sequence[Kind],
        outputs: Sequence[Kind],
        donate: Sequence[int] = (),
        *,
        inference: bool = False,
    ) -> Callable[..., Any]:
        def constrained(*args: Any) -> tuple[Any, ...]:
            with jax.sharding.use_abstract_mesh(self.mesh.abstract_mesh):
                results = function(*args, axis_name=None)
            return tuple(
                jax.lax.with_sharding_constraint(result, self.shardings(result, kind))
                for result, kind in zip(results, outputs, strict=True)
            )

        on_cpus = self.mesh.devices.flat[0].platform == "cpu"
        options = _INFERENCE if inference and on_cpus and _knows_inference() else None
        return jax.jit(constrained, donate_argnums=tuple(donate), compiler_options=options)


@functools.cache
def _knows_inference() -> bool:
    """Whether this XLA has the options, which are experimental."""
    try:
        jax.jit(lambda: 0, compiler_options=_INFERENCE).lower().compile()
    except jax.errors.JaxRuntimeError:
        return False
    return True


def _place_share(leaf: Any, sharding: NamedSharding) -> jax.Array:
    """A leaf that every process holds alike, of which each puts its own shares on its own devices; always a copy.

    (device_put would compare the values of all processes at every call.)
    """
    if isinstance(leaf, jax.Array) and jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        data = _place_share(jax.random.key_data(leaf), sharding)
        return jax.random.wrap_key_data(data, impl=jax.random.key_impl(leaf))
    if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
        return jax.jit(jnp.copy, out_shardings=sharding)(leaf)
    values = np.array(leaf)
    return jax.make_array_from_callback(values.shape, sharding, lambda share: values[share])


class PmapExecutor:
    """``jax.pmap``: parameters replicated, rows split, gradients summed explicitly by the step itself.

    It takes no options for the compiler, so that ``inference`` means nothing here.
    """

    def __init__(self, devices: Sequence[jax.Device]) -> None:
        self.devices = list(devices)
        self.row_shards = len(self.devices)
        self.mesh = Mesh(np.asarray(self.devices), (DATA,))

    def shardings(self, tree: Any, kind: Kind) -> Any:
        spec = PartitionSpec(DATA) if kind == "rows" else PartitionSpec()
        return jax.tree.map(lambda _: NamedSharding(self.mesh, spec), tree)

    def make(self, function: Callable[..., Any], *args: Any) -> Any:
        return jax.jit(function)(*args)

    def place(self, tree: Any, kind: Kind) -> Any:
        return jax.device_put(tree, self.shardings(tree, kind))

    def compile(
        self,
        function: Callable[..., Any],
        inputs: Sequence[Kind],
        outputs: Sequence[Kind],
        donate: Sequence[int] = (),
        *,
        inference: bool = False,
    ) -> Callable[..., Any]:
        def split(leaf: jax.Array) -> jax.Array:
            return leaf.reshape(self.row_shards, leaf.shape[0] // self.row_shards, *leaf.shape[1:])

        mapped = jax.pmap(
            lambda *args: function(*args, axis_name=DATA),
            axis_name=DATA,
            in_axes=tuple(0 if kind == "rows" else None for kind in inputs),
            out_axes=tuple(0 if kind == "rows" else None for kind in outputs),
            devices=self.devices,
        )

        def run(*args: Any) -> tuple[Any, ...]:
            args = tuple(
                jax.tree.map(split, arg) if kind == "rows" else arg for arg, kind in zip(args, inputs, strict=True)
            )
            return tuple(
                jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), result) if kind == "rows" else result
                for result, kind in zip(mapped(*args), outputs, strict=True)
            )

        return run
