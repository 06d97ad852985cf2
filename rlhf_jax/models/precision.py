"""Products whose factors are narrow and whose sums are not."""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from rlhf_jax.mesh import platform


@jax.custom_vjp
def product(x: Float[Array, "*S I"], kernel: Float[Array, "I O"]) -> Float[Array, "*S O"]:
    """x W in the type of ``x``; the gradient of W, a sum over all tokens and devices, is one in the type of ``kernel``.

    Rounded to bfloat16 before devices and microbatches are added up, gradients would lose what each of them adds last.
    The gradient of W is written as x' g: the compiler's own, (g' x)', takes a CPU half as long again
    (docs/LOG.md, 2026-11-30).
    """
    return x @ kernel.astype(x.dtype)


def wide_einsum(how: str, x: jax.Array, y: jax.Array) -> jax.Array:
    """An einsum of narrow floats that is not rounded to their type, but float32. (Of wide ones, an einsum.)"""
    return jnp.einsum(how, x, y) if jnp.finfo(x.dtype).bits >= 32 else _wide_sums(how, x, y)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _wide_sums(how: str, x: jax.Array, y: jax.Array) -> jax.Array:
    if platform() == "cpu":  # as in ``_backward``
        x, y = x.astype(jnp.float32), y.astype(jnp.float32)
    return jnp.einsum(how, x, y, preferred_element_type=jnp.float32)


def _wide_forward(how: str, x: jax.Array, y: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _wide_sums(how, x, y), (x, y)


def _wide_backward(how: str, kept: tuple[jax.Array, jax.Array], out: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Of narrow factors again: a gradient of one token is no sum to be careful of."""
    gradients: tuple[jax.Array, jax.Array] = jax.vjp(partial(jnp.einsum, how), *kept)[1](out.astype(kept[0].dtype))
    return gradients


_wide_sums.defvjp(_wide_forward, _wide_backward)


def _forward(x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    # Written out: a product inside another custom rule is one that no policy of ``jax.checkpoint`` sees.
    return x @ kernel.astype(x.dtype), (x, kernel)


def _backward(kept: tuple[jax.Array, jax.Array], out: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, kernel = kept
    rows = tuple(range(x.ndim - 1))
    # CPUs have no such product; they widen the factors of every product anyway.
    factors = (x, out) if platform() != "cpu" else (x.astype(kernel.dtype), out.astype(kernel.dtype))
    of_kernel = jax.lax.dot_general(*factors, ((rows, rows), ((), ())), preferred_element_type=kernel.dtype)
    return out @ kernel.astype(x.dtype).T, of_kernel


product.defvjp(_forward, _backward)
