"""The constants of PPO and of the policy gradients that share its learner."""

import dataclasses
from typing import Literal

from rlhf_jax.models import DecoderSpec
from rlhf_jax.objectives.advantages import ScoreAt
from rlhf_jax.objectives.ppo import LossMean
from rlhf_jax.objectives.regularisers import Regulariser

Advantage = Literal["gae", "reinforce", "rloo", "grpo", "dr_grpo", "reinforce_pp"]


@dataclasses.dataclass(frozen=True)
class KLSpec:
    """The price of leaving the reference policy: beta in reward per nat, fixed or steered to ``target`` nats.

    ``regulariser`` says what is priced, how it is estimated, and where the estimate stands. The controller looks at the
    k1 estimate of the reverse KL, whatever is priced.
    """

    coefficient: float = 0.05
    controller: Literal["fixed", "adaptive"] = "fixed"
    target: float = 6.0
    horizon: float = 10_000.0
    regulariser: Regulariser = Regulariser()  # noqa: RUF009 (frozen)


@dataclasses.dataclass(frozen=True)
class RewardRules:
    """What becomes of rewards before advantages are made of them, in this order; none by default.

    ``scale`` divides the task's rewards by the running deviation of episodes' scores, ``clip`` (above 0) confines them,
    ``whiten`` brings the rewards of tokens, price of divergence included, to variance 1 and leaves their mean.
    ``score_at`` is the token that the score is paid at.
    """

    score_at: ScoreAt = "last"
    scale: bool = False
    clip: float = 0.0
    whiten: bool = False


@dataclasses.dataclass(frozen=True)
class PPOSpec:
    """Constants of the update. ``minibatches`` must divide the number of episodes.

    ``microbatches`` are the parts in which the rows of a minibatch are worked on, which changes nothing but memory.
    ``value`` None trains no value model, as every ``advantage`` but ``gae`` asks for; ``shared`` reads values off the
    policy's own hidden states, by a head. ``group`` consecutive episodes answer one prompt. ``clip_high`` None is
    ``clip``. With ``mask_unfinished`` episodes that never ended leave the loss. ``stop_kl`` (0: never) is the
    approximate KL to the sampling policy, in nats per token, that no update may begin from: it and the rest of the
    iteration are skipped. ``entropy`` and ``pretraining`` are coefficients, 0 without.
    """

    policy: DecoderSpec
    value: DecoderSpec | None
    temperature: float = 1.0
    epochs: int = 4
    minibatches: int = 4
    gamma: float = 1.0
    lambda_: float = 0.95
    clip: float = 0.2
    value_clip: float = 0.2
    value_coefficient: float = 0.1
    whiten_advantages: bool = True
    kl: KLSpec = KLSpec()
    microbatches: int = 1
    advantage: Advantage = "gae"
    group: int = 1
    group_baseline: bool = False
    loss_mean: LossMean = "tokens"
    clip_high: float | None = None
    advantage_clip: float = 0.0
    mask_unfinished: bool = False
    rewards: RewardRules = RewardRules()
    shared: bool = False
    normalize_value: bool = False
    stop_kl: float = 0.0
    entropy: float = 0.0
    pretraining: float = 0.0
