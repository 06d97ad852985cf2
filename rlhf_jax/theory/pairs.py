"""The sum of utilities over compared pairs, in coordinates that keep tiny distances from the end points exact."""

import dataclasses

import numpy as np
from jaxtyping import Bool, Float, Int

from rlhf_jax.theory.shapes import Shape


@dataclasses.dataclass
class Point:
    """Rewards of n responses as distances from an end point: r = 1 - t where ``upper``, else r = t.

    Near 1 a double resolves steps of 1e-16, while best rewards may lie 1e-34 apart; their distances resolve it.
    """

    t: Float[np.ndarray, "n"]
    upper: Bool[np.ndarray, "n"]

    @property
    def rewards(self) -> Float[np.ndarray, "n"]:
        return np.where(self.upper, 1.0 - self.t, self.t)

    @property
    def sign(self) -> Float[np.ndarray, "n"]:
        """dr / dt."""
        return np.where(self.upper, -1.0, 1.0)

    def to_nearest_end(self) -> "Point":
        """The same rewards, each measured from the end point that it is nearer to."""
        far = self.t > 0.5
        return Point(np.where(far, 1.0 - self.t, self.t), self.upper ^ far)


@dataclasses.dataclass(frozen=True)
class Pairs:
    """P compared pairs among n responses: S(r) = sum_p weight_p U(r[better_p] - r[worse_p])."""

    n: int
    better: Int[np.ndarray, "P"]
    worse: Int[np.ndarray, "P"]
    weights: Float[np.ndarray, "P"]

    @classmethod
    def of_matrix(cls, weights: Float[np.ndarray, "n n"]) -> "Pairs":
        """Entry (i, j) above 0: response i is better than j, with that weight."""
        better, worse = np.nonzero(weights)
        return cls(len(weights), better, worse, weights[better, worse])

    @property
    def top(self) -> Bool[np.ndarray, "n"]:
        """Responses that nothing is better than: the best reward of each is 1 (of one that is compared at all)."""
        return (self._sum(self.better) > 0) & (self._sum(self.worse) == 0)

    @property
    def bottom(self) -> Bool[np.ndarray, "n"]:
        """Responses that nothing is worse than: the best reward of each is 0."""
        return (self._sum(self.worse) > 0) & (self._sum(self.better) == 0)

    @property
    def inner(self) -> Bool[np.ndarray, "n"]:
        """Responses with something better and something worse."""
        return (self._sum(self.worse) > 0) & (self._sum(self.better) > 0)

    def gaps(self, point: Point) -> Float[np.ndarray, "P"]:
        """Differences of two rewards near the same end are differences of distances: nothing is lost."""
        upper_better, upper_worse = point.upper[self.better], point.upper[self.worse]
        across = upper_better.astype(float) - upper_worse.astype(float)
        return across + self.steps(point.sign * point.t)

    def steps(self, move: Float[np.ndarray, "n"]) -> Float[np.ndarray, "P"]:
        """The change of each gap when the rewards change by ``move``."""
        return move[self.better] - move[self.worse]

    def objective(self, shape: Shape, point: Point) -> float:
        """S(r)."""
        return float(np.dot(self.weights, shape(self.gaps(point))[0]))

    def gradient(self, slope: Float[np.ndarray, "P"]) -> Float[np.ndarray, "n"]:
        """dS / dr."""
        pull = self.weights * slope
        return self._sum(self.better, pull) - self._sum(self.worse, pull)

    def force(self, slope: Float[np.ndarray, "P"]) -> Float[np.ndarray, "n"]:
        """The sum of the pulls on each reward, up and down, without their signs: the scale of its gradient."""
        pull = self.weights * slope
        return self._sum(self.better, pull) + self._sum(self.worse, pull)

    def negative_hessian(
        self, curvature: Float[np.ndarray, "P"], kept: Bool[np.ndarray, "n"]
    ) -> Float[np.ndarray, "k k"]:
        """-d2S / dr dr over the kept responses: a weighted graph Laplacian, an M-matrix since U is concave."""
        bend = np.maximum(-self.weights * curvature, 0.0)
        matrix = np.zeros((self.n, self.n))
        matrix[self.better, self.worse] = -bend
        matrix += matrix.T
        np.fill_diagonal(matrix, self._sum(self.better, bend) + self._sum(self.worse, bend))
        return matrix[np.ix_(kept, kept)]

    def residual(self, shape: Shape, point: Point) -> float:
        """How far from stationary: the largest |projected dS/dr_i|, over the sum of the pulls on response i.

        At r_i = 1 only a pull downwards counts, at r_i = 0 only one upwards. Between 0 (exactly the best) and 1, and
        without a unit: it reads the same whether the slopes are of size 1 or 1e30. Rounding leaves about 1e-15.
        """
        slope = shape(self.gaps(point))[1]
        gradient, force = self.gradient(slope), self.force(slope)
        at_one = np.where(point.upper, point.t == 0.0, point.t == 1.0)
        at_zero = np.where(point.upper, point.t == 1.0, point.t == 0.0)
        left = np.where(at_one, np.minimum(gradient, 0.0), np.where(at_zero, np.maximum(gradient, 0.0), gradient))
        return float(np.max(np.divide(np.abs(left), force, out=np.zeros(self.n), where=force > 0), initial=0.0))

    def _sum(self, index: Int[np.ndarray, "P"], values: Float[np.ndarray, "P"] | None = None) -> Float[np.ndarray, "n"]:
        return np.bincount(index, weights=values, minlength=self.n).astype(float)
