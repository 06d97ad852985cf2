"""The gradient step that all learners share: sums over rows, divided by global counts."""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias, TypeVar

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Int

from rlhf_jax.finite import all_finite
from rlhf_jax.models import overlay, trained
from rlhf_jax.types import ListTokens, Params, TrainState

Batch = TypeVar("Batch")
Sums = TypeVar("Sums")
Metrics: TypeAlias = dict[str, jax.Array]
# What may be found not finite in a step, each a bit of its metric ``not_finite`` that has the place of its name here.
CAUSES = ("loss", "gradient", "reward", "value", "log-probability", "target")
# The part of the parameters that learns: a tree with some of their leaves.
Part: TypeAlias = Callable[[Params], Params]


class Largest(NamedTuple):
    """A metric whose value over several parts of the rows is the largest of theirs, where others are added up."""

    value: jax.Array


class LossSums(NamedTuple):
    """A loss as numerator and weight, so that the mean is right however rows are spread and however ragged they are.

    ``metrics`` maps a name to its own (numerator, weight), or to a ``Largest``.
    """

    numerator: jax.Array
    weight: jax.Array
    metrics: dict[str, Any]


def sum_over_devices(tree: Batch, axis_name: str | None) -> Batch:
    """Sum over the mapped axis; without one (a single device, or a mesh) the sums are global already."""
    if axis_name is None:
        return tree
    return jax.tree.map(
        lambda leaf: (jax.lax.pmax if _is_largest(leaf) else jax.lax.psum)(leaf, axis_name), tree, is_leaf=_is_largest
    )


def _is_largest(leaf: Any) -> bool:
    return isinstance(leaf, Largest)


def reduce_metrics(sums: dict[str, Any]) -> Metrics:
    """Global numerators over global weights, 0 where nothing was counted."""

    def reduced(found: Any) -> jax.Array:
        if isinstance(found, Largest):
            return found.value
        total, weight = found
        return jnp.where(weight > 0, total / jnp.where(weight > 0, weight, 1), 0.0)

    return {name: reduced(found) for name, found in sums.items()}


def gradient_step(
    loss_sums: Callable[[Params, Batch], LossSums],
    optimizer: optax.GradientTransformation,
    params: Params,
    opt_state: optax.OptState,
    batch: Batch,
    axis_name: str | None,
    norm: Callable[[Params], jax.Array] = optax.tree.norm,
    microbatches: int = 1,
    part: Part = trained,
    sound: Bool[Array, ""] | bool = True,
) -> tuple[Params, optax.OptState, Metrics]:
    """One optimizer update on the rows of ``batch``, those of every device under ``axis_name`` together.

    Only that ``part`` of the parameters moves (of an adapted decoder, unless told otherwise, the adapters): gradients,
    their sums and moments are of it alone. ``norm`` is that of the gradients in the metrics. The rows are taken in
    ``microbatches`` equal parts, one after the other, which saves memory and changes nothing: ``loss_sums`` must be a
    sum over rows, as its name says.

    Where loss or gradients are not finite, or the rows not ``sound``, the update is not made: parameters and optimizer
    state keep their bits. Of whole models with an optimizer each, none then moves. The metrics ``skipped`` (0 or 1) and
    ``not_finite`` (bits, see ``CAUSES``) say so. Of finite gradients our optimizers make finite updates.
    """
    moving = part(params)

    def numerator(moving: Params, rows: Batch) -> tuple[jax.Array, LossSums]:
        sums = loss_sums(overlay(params, moving), rows)
        return sums.numerator, sums

    def sums_of(rows: Batch) -> tuple[Params, LossSums]:
        (_, sums), gradients = jax.value_and_grad(numerator, has_aux=True)(local, rows)
        return gradients, sums

    # Marked as differing between devices, or a checked shard_map would sum the gradients a second time.
    local = moving if axis_name is None else jax.tree.map(lambda x: jax.lax.pcast(x, axis_name, to="varying"), moving)
    gradients, sums = sum_over_devices(_sum_over_parts(sums_of, batch, microbatches, axis_name), axis_name)
    weight = jnp.where(sums.weight > 0, sums.weight, 1)  # a batch of little weight is a mean too
    gradients = jax.tree.map(lambda g: g / weight.astype(g.dtype), gradients)
    metrics = reduce_metrics({"loss": (sums.numerator, sums.weight), **sums.metrics})
    metrics["grad_norm"] = norm(gradients)
    # A norm is finite where all that it is of is; one that overflows is of gradients that no optimizer can use.
    causes = not_finite_bits(loss=(sums.numerator, sums.weight), gradient=metrics["grad_norm"])
    made = (causes == 0) & sound

    def update() -> tuple[Params, optax.OptState]:
        updates, moments = optimizer.update(gradients, opt_state, moving)
        return optax.apply_updates(moving, updates), moments

    # A branch, for a choice between new and old state would keep both.
    moved, opt_state = jax.lax.cond(made, update, lambda: (moving, opt_state))
    metrics |= {"skipped": jnp.where(made, 0.0, 1.0), "not_finite": causes}
    return overlay(params, moved), opt_state, metrics


def not_finite_bits(**found: Any) -> Int[Array, ""]:
    """The bits of those ``CAUSES`` (``_`` for ``-``) whose trees hold something that is not finite."""
    bits = (jnp.where(all_finite(tree), 0, 1 << CAUSES.index(name.replace("_", "-"))) for name, tree in found.items())
    return sum(bits, jnp.int32(0))


def causes_of(bits: int) -> tuple[str, ...]:
    """The names of what a step's ``not_finite`` says."""
    return tuple(name for place, name in enumerate(CAUSES) if bits >> place & 1)


def over_updates(metrics: Metrics) -> Metrics:
    """Of stacked metrics of several updates: how many were skipped, and all that was not finite in any."""
    return {
        "skipped": jnp.sum(metrics["skipped"]),
        "not_finite": jnp.bitwise_or.reduce(metrics["not_finite"]),
    }


def _sum_over_parts(function: Callable[[Batch], Sums], batch: Batch, parts: int, axis_name: str | None) -> Sums:
    """The sum of ``function`` over ``parts`` equal parts of the rows, of which one is worked on at a time."""
    if parts == 1:
        return function(batch)
    leaves, structure = jax.tree.flatten(batch)
    shared = _groups_of_lists(batch)

    def split(leaf: jax.Array) -> jax.Array:
        """Part i has the rows i, i + parts, ..., and of lists that share their room the groups: of rows that are split
        over a mesh, every device keeps its own.
        """
        groups = shared or len(leaf)
        apart = leaf.reshape(groups // parts, parts, len(leaf) // groups, *leaf.shape[1:])
        return jnp.moveaxis(apart, 1, 0).reshape(parts, -1, *leaf.shape[1:])

    split_leaves = [split(leaf) for leaf in leaves]

    def of_leaves(leaves: list[jax.Array]) -> Sums:
        return function(jax.tree.unflatten(structure, leaves))

    shapes = jax.eval_shape(of_leaves, [leaf[0] for leaf in split_leaves])
    zeros = jax.tree.map(_nothing, shapes, is_leaf=_is_largest)
    if axis_name is not None:
        zeros = jax.tree.map(lambda leaf: jax.lax.pcast(leaf, axis_name, to="varying"), zeros)

    def add(total: Sums, part: list[jax.Array]) -> tuple[Sums, None]:
        return jax.tree.map(_together, total, of_leaves(part), is_leaf=_is_largest), None

    return jax.lax.scan(add, zeros, split_leaves)[0]


def _groups_of_lists(batch: Any) -> int:
    """In how many groups the lists of a batch share their room; 0: none do."""
    found = jax.tree.leaves(batch, is_leaf=lambda node: isinstance(node, ListTokens))
    return next((len(one.ids) for one in found if isinstance(one, ListTokens) and one.slot is not None), 0)


def _nothing(shape: Any) -> Any:
    if isinstance(shape, Largest):
        return Largest(jnp.full(shape.value.shape, -jnp.inf, shape.value.dtype))
    return jnp.zeros(shape.shape, shape.dtype)


def _together(one: Any, other: Any) -> Any:
    return Largest(jnp.maximum(one.value, other.value)) if isinstance(one, Largest) else one + other


def init_state(
    params: Params,
    optimizer: optax.GradientTransformation,
    key: jax.Array,
    extra: dict[str, Any] | None = None,
    part: Part = trained,
) -> TrainState:
    """The state before the first step; the optimizer's holds moments of the ``part`` that learns alone."""
    opt_state = optimizer.init(part(params))
    return TrainState(step=jnp.zeros((), jnp.int32), params=params, opt_state=opt_state, key=key, extra=extra or {})


def train_step(
    loss_sums: Callable[[Params, Batch], LossSums],
    optimizer: optax.GradientTransformation,
    state: TrainState,
    batch: Batch,
    *,
    axis_name: str | None = None,
    norm: Callable[[Params], jax.Array] = optax.tree.norm,
    microbatches: int = 1,
    part: Part = trained,
) -> tuple[TrainState, Metrics]:
    """One step of a learner that makes one update a batch, worked on in ``microbatches`` parts."""
    params, opt_state, metrics = gradient_step(
        loss_sums, optimizer, state.params, state.opt_state, batch, axis_name, norm, microbatches, part
    )
    return TrainState(state.step + 1, params, opt_state, state.key, state.extra), metrics
