"""The inverse problem: is there a utility of the gap alone whose best rewards are the wanted ones?

Often not. Let U be any concave, strictly increasing utility of the gap and r its best rewards of n >= 4 responses, with
r_2 < 1. The pull on r_2 is zero:

    U'(r_1 - r_2) = sum over j > 2 of U'(r_2 - r_j) > U'(r_2 - r_3),

and a slope that never rises with the gap makes r_1 - r_2 < r_2 - r_3 (if r_2 = 1 the outermost gap is 0, and smaller
still). So the outermost gap is always smaller than the next: uniform rewards are a limit that is not reached, and
nothing that thins out towards the ends is near. And U cannot tell up from down, so that its best rewards are symmetric
about 1/2. Everything else, a bell or a lopsided law, needs weights on the pairs: ``objectives.utilities.Quantile``
reaches every law.
"""

import dataclasses

import numpy as np
from jaxtyping import Float
from scipy.optimize import nnls
from scipy.special import expit


@dataclasses.dataclass(frozen=True)
class SlopeFor:
    """A slope U'(x) = sum_k mass_k corner_k(x), all masses >= 0: U is increasing and concave. The sum of the
    slopes of all gaps of a response, averaged over the inner responses, is 1.

    ``corners``: rows (c, s) of the falling slopes: 1 if s is infinite, exp(-x / s) if c is -infinite, else
    sigmoid((c - x) / s). ``residual``: the largest left-over pull on a response, over the sum of the pulls on it, as in
    ``theory.pairs.Pairs.residual``. ``feasible``: whether it is below the tolerance that was asked for.
    """

    corners: Float[np.ndarray, "m 2"]
    masses: Float[np.ndarray, "m"]
    residual: float
    feasible: bool

    def slope(self, x: Float[np.ndarray, "*S"]) -> Float[np.ndarray, "*S"]:
        """U'(x), x >= 0."""
        return _corner_slopes(np.asarray(x, float), self.corners) @ self.masses


def slope_for(rewards: Float[np.ndarray, "n"], *, tolerance: float = 1e-6) -> SlopeFor:
    """The mixture whose pulls on ``rewards`` (descending, 1 first and 0 last, no two equal) balance best.

    Non-negative least squares over exponentials, which mix to every completely monotone slope (those of powers,
    negative powers and log among them), and over smoothed steps, which mix to any other falling slope.

    Raises:
      ValueError: the rewards do not descend strictly from 1 to 0.
    """
    r = np.asarray(rewards, float)
    if len(r) < 2 or r[0] != 1.0 or r[-1] != 0.0 or np.any(np.diff(r) >= 0):
        raise ValueError("the wanted rewards have to descend strictly from 1 to 0")
    corners = _corners(smallest=float(np.min(-np.diff(r))))
    slopes = _corner_slopes(np.abs(r[:, None] - r[None, :]), corners)
    signs = np.sign(np.arange(len(r))[None, :] - np.arange(len(r))[:, None]).astype(float)  # up for a worse response
    pulls = np.einsum("ij,ijk->ik", signs, slopes)[1:-1]
    forces = np.einsum("ij,ijk->ik", np.abs(signs), slopes)[1:-1]
    # Each corner at a mean force of 1; the last row asks that the shares add up to 1.
    size = np.mean(forces, axis=0) if len(forces) else np.ones(len(corners))
    system = np.vstack([pulls / size, np.ones(len(size))])
    shares, _ = nnls(system, np.append(np.zeros(len(pulls)), 1.0), maxiter=100 * len(size))
    masses = shares / size
    residual = float(np.max(np.abs(pulls @ masses) / np.maximum(forces @ masses, 1e-300), initial=0.0))
    return SlopeFor(corners, masses, residual, residual < tolerance)


def _corners(smallest: float) -> Float[np.ndarray, "m 2"]:
    exponentials = [(-np.inf, s) for s in np.geomspace(0.1 * smallest, 10.0, 100)]
    steps = [(c, c / sharp) for c in np.geomspace(0.5 * smallest, 1.0, 30) for sharp in (3.0, 10.0, 30.0)]
    centred = [(0.0, s) for s in np.geomspace(0.1 * smallest, 10.0, 30)]
    return np.array([*exponentials, *steps, *centred, (0.0, np.inf)])


def _corner_slopes(x: Float[np.ndarray, "*S"], corners: Float[np.ndarray, "m 2"]) -> Float[np.ndarray, "*S m"]:
    c, s = corners.T
    exponential = np.isinf(c)
    steps = expit((np.where(exponential, 0.0, c) - x[..., None]) / s)
    return np.where(exponential, np.exp(-x[..., None] / s), np.where(np.isinf(s), 1.0, steps))
