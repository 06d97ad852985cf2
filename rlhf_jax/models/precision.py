"""Products of activations in a narrow type with parameters in a wide one."""

import jax
from jaxtyping import Array, Float

from rlhf_jax.mesh import platform


def product(x: Float[Array, "*S I"], kernel: Float[Array, "I O"]) -> Float[Array, "*S O"]:
    """x W in the type of ``x``; the gradient of W, a sum over all tokens and devices, is one in the type of ``kernel``.

    Rounded to bfloat16 before devices and microbatches are added up, gradients would lose what each of them adds last.
    """
    return x @ kernel if x.dtype == kernel.dtype else _narrow(x, kernel)


@jax.custom_vjp
def _narrow(x: Float[Array, "*S I"], kernel: Float[Array, "I O"]) -> Float[Array, "*S O"]:
    return x @ kernel.astype(x.dtype)


def _forward(x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _narrow(x, kernel), (x, kernel)


def _backward(kept: tuple[jax.Array, jax.Array], out: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, kernel = kept
    rows = tuple(range(x.ndim - 1))
    # CPUs have no such product; they widen the factors of every product anyway.
    factors = (x, out) if platform() != "cpu" else (x.astype(kernel.dtype), out.astype(kernel.dtype))
    of_kernel = jax.lax.dot_general(*factors, ((rows, rows), ((), ())), preferred_element_type=kernel.dtype)
    return out @ kernel.astype(x.dtype).T, of_kernel


_narrow.defvjp(_forward, _backward)
