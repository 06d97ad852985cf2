"""The divergence that a setting names; a user's own is held to the laws of the family before anything is trained."""

import jax.numpy as jnp
import numpy as np

from rlhf_jax.errors import UserError
from rlhf_jax.objectives.divergences import Divergence, make_divergence
from rlhf_jax.objectives.members import told

LOGS = np.linspace(-5.0, 5.0, 41, dtype=np.float32)  # of ratios of probabilities, nats
NEAR = 1e-4


def divergence(name: str, alpha: float, key: str, *, direct: bool = False) -> Divergence:
    """The divergence ``name``; ``direct`` where a policy is trained on given answers, as f-DPO does.

    Raises:
      UserError: it is a user's own, and cannot be read or is no f-divergence; names the key.
    """
    if ":" not in name:
        return make_divergence(name, alpha)
    try:
        made = make_divergence(name, alpha)
        _try_out(made)
        if direct and not made.permits_direct:
            raise ValueError("its best policies do not tell their rewards (permits_direct is False)")
    except (Exception, SystemExit) as error:  # whatever a user's file may do
        raise UserError(f"config.{key}: {name}: {told(error, name)}") from None
    return made


def _try_out(made: Divergence) -> None:
    """See that f is one of an f-divergence and that its functions agree. Raises ValueError, or whatever it raises."""
    logs = jnp.asarray(LOGS)
    ratios = jnp.exp(logs)
    values, slopes = np.asarray(made.value(ratios)), np.asarray(made.slope(ratios))
    for what, found in {
        "value": values,
        "slope": slopes,
        "value_of_log": np.asarray(made.value_of_log(logs)),
        "slope_of_log": np.asarray(made.slope_of_log(logs)),
        "per_sample": np.asarray(made.per_sample(logs)),
    }.items():
        if found.shape != LOGS.shape or not np.all(np.isfinite(found)):
            raise ValueError(f"{what} is not a finite number for each ratio from e^-5 to e^5")
    one = jnp.ones(())
    if not abs(float(made.value(one))) < NEAR:
        raise ValueError(f"f(1) is {float(made.value(one)):.3g}, not 0: a policy would be away from itself")
    if not abs(float(made.slope(one)) - made.slope_at_one) < NEAR:
        raise ValueError(f"f'(1) is {float(made.slope(one)):.3g}, but slope_at_one is {made.slope_at_one:.3g}")
    if np.any(np.diff(slopes) < -NEAR * (1.0 + np.abs(slopes[1:]))):
        raise ValueError("f is not convex: its slope falls")
    if not np.ptp(slopes) > 0:
        raise ValueError("f is a straight line: it prices nothing")
    low = np.asarray(made.slope(jnp.exp(jnp.array([-30.0, -20.0]))))
    if not made.sparse and low[1] - low[0] < NEAR:
        raise ValueError(f"f'(u) is {low[0]:.3g} near u = 0, but slope_at_zero is -inf: a best policy may be sparse")
    for what, other, wanted in (
        ("value_of_log", made.value_of_log(logs), values),
        ("slope_of_log", made.slope_of_log(logs), slopes),
        ("centred_slope_of_log", made.centred_slope_of_log(logs), slopes - made.slope_at_one),
        ("per_sample", made.per_sample(logs), values / np.asarray(ratios)),
    ):
        if not np.allclose(np.asarray(other), wanted, rtol=1e-2, atol=1e-3):
            raise ValueError(f"{what} does not agree with value")
