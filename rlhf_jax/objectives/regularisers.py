"""The price of leaving the reference: a divergence estimated from log-probabilities, in the reward or in the loss.

Of a sampled token (or a whole response) only l = log pi - log ref is known, u = e^l. Three estimates of D_f:

    k1 = f(u) / u                            unbiased
    k2 = l (f'(u) - f'(1)) / 2               biased; its gradient is (f'(u) - f'(1)) grad log pi, which is what counts
    k3 = f(u) / u - f'(1) (1 - 1 / u)        unbiased, >= 0, and k1 where f'(1) = 0

and ``exact``, the sum over the vocabulary (``objectives.exact_divergence``). Of the reverse KL they are l, l^2 / 2 and
1 / u - 1 + l (Schulman 2020). What an estimate does depends on where it stands. With k_t of token t:

* in the reward it is a number: the gradient is E sum_t grad log pi_t sum_{t' >= t} k_t', the *score* part;
* in the loss it is differentiated as it is: E sum_t grad k_t, the *pathwise* part, blind to what is sampled;
* both parts together are the gradient of E sum_t k_t: of the divergence, where the estimate is unbiased.

``Regulariser.bias`` says for each choice whether its expected gradient is the right one, and if not, whose it is.
"""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from rlhf_jax.objectives.divergences import Divergence, ForwardKL, LogRatio, ReverseKL, clamped_exp, clamped_expm1

Estimator = Literal["k1", "k2", "k3", "exact"]
Placement = Literal["reward", "loss", "both"]
Level = Literal["token", "sequence"]


def k1(divergence: Divergence, log_ratio: LogRatio) -> LogRatio:
    """f(u) / u: unbiased. Of the reverse KL log u."""
    return divergence.per_sample(log_ratio)


def k2(divergence: Divergence, log_ratio: LogRatio) -> LogRatio:
    """l (f'(u) - f'(1)) / 2 >= 0, with the gradient (f'(u) - f'(1)) grad l, whatever f. Of the reverse KL l^2 / 2.

    The value is the trapezoid of that gradient from 0 to l. It is not unbiased; the gradient's mean is that of D_f.
    Second derivatives are 0.
    """
    fixed = jax.lax.stop_gradient(log_ratio)
    return divergence.centred_slope_of_log(fixed) * (log_ratio - 0.5 * fixed)


def k3(divergence: Divergence, log_ratio: LogRatio) -> LogRatio:
    """f(u) / u - f'(1) (1 - 1 / u) >= 0: unbiased where pi covers ref. Of the reverse KL 1 / u - 1 + log u."""
    plain = divergence.per_sample(log_ratio)
    slope = divergence.slope_at_one
    return plain + slope * clamped_expm1(-log_ratio) if slope else plain


def contradiction(estimator: Estimator, placement: Placement, level: Level, importance: bool) -> str | None:
    """Why a choice has no meaning, or None."""
    if estimator == "exact" and level == "sequence":
        return "exact sums over the vocabulary at each token; over whole responses there is no such sum"
    if estimator == "exact" and importance:
        return "exact sums over all tokens, so there is no sample for importance to correct"
    if importance and placement != "loss":
        return "importance corrects an estimate in the loss; a reward is paid to the policy that sampled"
    return None


@dataclasses.dataclass(frozen=True)
class Regulariser:
    """Which divergence from the reference is priced, how it is estimated and where the estimate stands.

    What is claimed for ``level``:

    * ``token``: the gradient of E_pi sum_t D_f(pi(.|s_t) || ref(.|s_t)), over the states that the policy itself visits;
    * ``sequence``: the gradient of D_f(pi(y) || ref(y)) of whole responses, u = pi(y) / ref(y).

    Of the reverse KL the two are one number. The claim is about the expected gradient, with undiscounted returns,
    on episodes of the current policy, before whitening and clipping. With ``importance`` each estimate in the loss is
    multiplied by rho = pi / pi_old of its token or response, gradient included (k2, which is nothing but its
    gradient: excluded), and a claim for the ``sequence`` holds on episodes of an older policy too.

    The three functions below give prices in units of beta: rewards -= beta ``reward_penalty``,
    advantages -= beta ``advantage_correction``, loss += beta ``loss_penalty``.

    Raises:
      ValueError: the choice has no meaning, see ``contradiction``.
    """

    divergence: Divergence = ReverseKL()  # noqa: RUF009 (frozen)
    estimator: Estimator = "k1"
    placement: Placement = "reward"
    level: Level = "token"
    importance: bool = False

    def __post_init__(self) -> None:
        problem = contradiction(self.estimator, self.placement, self.level, self.importance)
        if problem:
            raise ValueError(problem)

    @property
    def in_reward(self) -> bool:
        return self.placement != "loss"

    @property
    def in_loss(self) -> bool:
        return self.placement != "reward"

    @property
    def corrects(self) -> bool:
        """Whether ``advantage_correction`` is anything but 0."""
        paid = self.estimator == "k1" and self.placement == "reward" and self.level == "token"
        return paid and not isinstance(self.divergence, ReverseKL)

    def useless(self) -> bool:
        """Whether the expected gradient is 0: k1 of the reverse KL in the loss, for E grad log pi = 0."""
        plain = self.estimator == "k1" and self.placement == "loss" and not self.importance
        return plain and isinstance(self.divergence, ReverseKL)

    def bias(self) -> str | None:
        """None if the expected gradient is what is claimed, else what it is."""
        if self.placement == "both":
            return BIASES["both"] if self.estimator == "k2" else None
        if self.placement == "reward":
            return self._bias_in_reward()
        own = self._bias_in_loss()
        if self.level == "sequence" or self.useless():
            return own
        return f"{own}, and {LATER}" if own else f"{self.estimator} in the loss {LATER}"

    def _bias_in_reward(self) -> str | None:
        if self.estimator == "k1":
            return None
        if self.estimator == "k3" and isinstance(self.divergence, ReverseKL):
            return BIASES["k3 reward"]
        return BIASES["k2 reward"] if self.estimator == "k2" else f"{self.estimator} {BIASES['reward']}"

    def _bias_in_loss(self) -> str | None:
        """What is wrong at the state of a token, or with a response as a whole."""
        if self.importance or self.estimator in ("k2", "exact"):
            return None
        if isinstance(self.divergence, ReverseKL):
            return BIASES[f"{self.estimator} loss"]
        if isinstance(self.divergence, ForwardKL) and self.estimator == "k3":
            return BIASES["forward k3 loss"]
        return f"{self.estimator} {BIASES['loss']}"


LATER = "drops the effect of a token on later states"
BIASES = {
    "both": "k2 in reward and loss pays a price whose mean is not the divergence, beside the right loss",
    "reward": "in the reward leaves out the derivative of the estimate itself",
    "k2 reward": "k2 in the reward pays a price whose mean is not the divergence",
    "k3 reward": "k3 in the reward has the gradient of the reverse KL minus that of the forward KL",
    "loss": "in the loss leaves out the derivative of what is sampled",
    "k1 loss": "k1 in the loss has expected gradient zero",
    "k3 loss": "k3 in the loss has the gradient of the forward KL",
    "forward k3 loss": "k3 in the loss has the gradient of E_ref (log u)^2 / 2",
}


def reward_penalty(
    spec: Regulariser, *, log_ratio: Float[Array, "R"], mask: Bool[Array, "R"], exact: Float[Array, "R"] | None = None
) -> Float[Array, "R"]:
    """What each token of ONE episode pays in its reward, in units of beta; no gradient flows. 0 if all is in the loss.

    ``log_ratio`` = log pi - log ref of the sampled tokens under the policy that sampled, ``exact`` the divergence at
    their states, for the estimator ``exact`` alone. Masked slots may hold anything and are 0. For a ``sequence`` the
    price stands at the last token; k1 in the reward then is f'(u) - f'(1) of the response, whose score part is the
    gradient of D_f, of the reverse KL log u as ever.
    """
    if not spec.in_reward:
        return jnp.zeros_like(log_ratio)
    if spec.estimator == "exact":
        return jax.lax.stop_gradient(jnp.where(mask, _given(exact), 0.0))
    ratios = jax.lax.stop_gradient(jnp.where(mask, log_ratio, 0.0))
    if spec.level == "token":
        return jnp.where(mask, _estimate(spec, ratios), 0.0)
    whole = jnp.sum(ratios)
    if spec.estimator == "k1" and spec.placement == "reward":
        return _at_last(spec.divergence.centred_slope_of_log(whole), mask)
    return _at_last(jax.lax.stop_gradient(_estimate(spec, whole)), mask)


def advantage_correction(
    spec: Regulariser, *, log_ratio: Float[Array, "R"], mask: Bool[Array, "R"]
) -> Float[Array, "R"]:
    """f'(u_t) - f'(1) - f(u_t) / u_t, what k1 in the reward of a token leaves out of the token's *own* advantage.

    The derivative of E f(u) / u by pi is f'(u), not f(u) / u, so the own token has to be charged the one and earlier
    tokens, whose return it is in, the other. It belongs to the advantage and not to the return: the value model is not
    to learn it. The constant -f'(1) is a baseline; with it the correction of the reverse KL is 0.
    """
    if not spec.corrects:
        return jnp.zeros_like(log_ratio)
    ratios = jax.lax.stop_gradient(jnp.where(mask, log_ratio, 0.0))
    own = spec.divergence.centred_slope_of_log(ratios) - spec.divergence.per_sample(ratios)
    return jnp.where(mask, own, 0.0)


def loss_penalty(
    spec: Regulariser,
    *,
    logprobs: Float[Array, "R"],
    ref_logprobs: Float[Array, "R"],
    old_logprobs: Float[Array, "R"],
    mask: Bool[Array, "R"],
    exact: Float[Array, "R"] | None = None,
) -> Float[Array, "R"]:
    """What each token of ONE episode adds to the loss, in units of beta, with its gradient. 0 if all is in the reward.

    To be summed over tokens and divided as the policy loss is. ``old_logprobs`` are those of the policy that sampled;
    ``exact`` as in ``reward_penalty``, with its gradient. Masked slots may hold anything and are 0. For a ``sequence``
    the estimate of the whole response stands at its last token.
    """
    if not spec.in_loss:
        return jnp.zeros_like(logprobs)
    if spec.estimator == "exact":
        return jnp.where(mask, _given(exact), 0.0)
    ratios = jnp.where(mask, logprobs - jax.lax.stop_gradient(ref_logprobs), 0.0)
    log_rho = jnp.where(mask, logprobs - jax.lax.stop_gradient(old_logprobs), 0.0)
    if spec.level == "sequence":
        ratios, log_rho = jnp.sum(ratios), jnp.sum(log_rho)
    prices = _estimate(spec, ratios)
    if spec.importance:
        rho = clamped_exp(log_rho)
        # k2 is made for its gradient: the derivative of rho would add that of its value, which means nothing.
        prices *= jax.lax.stop_gradient(rho) if spec.estimator == "k2" else rho
    return _at_last(prices, mask) if spec.level == "sequence" else jnp.where(mask, prices, 0.0)


def _estimate(spec: Regulariser, log_ratio: LogRatio) -> LogRatio:
    return {"k1": k1, "k2": k2, "k3": k3}[spec.estimator](spec.divergence, log_ratio)


def _given(exact: Float[Array, "R"] | None) -> Float[Array, "R"]:
    if exact is None:
        raise ValueError("the estimator 'exact' needs the divergence at each state")
    return exact


def _at_last(price: Float[Array, ""], mask: Bool[Array, "R"]) -> Float[Array, "R"]:
    """A price of the whole episode at its last token; nowhere in an episode without any."""
    last = jnp.arange(mask.shape[0]) == jnp.sum(mask) - 1
    return jnp.where(last & mask, price, 0.0)
