"""Sections of the configuration to the frozen specs of the rooms below."""

import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from rlhf_jax.build.divergences import divergence
from rlhf_jax.build.pretrained import folder_spec
from rlhf_jax.config import dpo
from rlhf_jax.data.tokenizers import Tokenizer
from rlhf_jax.errors import UserError
from rlhf_jax.generation import RolloutSpec, SamplingSpec
from rlhf_jax.learners.critique import CritiqueSpec
from rlhf_jax.learners.optimizer import OptimizerSpec
from rlhf_jax.learners.ppo import KLSpec, PPOSpec, RewardRules
from rlhf_jax.learners.reward import FeedbackSpec, RewardSpec
from rlhf_jax.models import ONE_MODEL, DecoderSpec, EnsembleSpec
from rlhf_jax.objectives.members import told
from rlhf_jax.objectives.regularisers import Regulariser, contradiction
from rlhf_jax.objectives.utilities import Quantile, Utility, make_utility, unit_range, unsettable
from rlhf_jax.theory.shapes import check_shape, shape_of


def decoder_spec(model: ConfigDict, vocab_size: int) -> DecoderSpec:
    """The decoder of a ``config.model``. Raises UserError where it names a folder that cannot be read."""
    if model.path:
        return folder_spec(model, vocab_size)
    return DecoderSpec(vocab_size=vocab_size, **{name: value for name, value in model.items() if name != "path"})


def optimizer_spec(optimizer: ConfigDict, steps: int, learning_rate: float | None = None) -> OptimizerSpec:
    """The optimizer of a stage making ``steps`` updates, at another peak rate if one is given."""
    values = optimizer.to_dict()
    if learning_rate is not None:
        values["learning_rate"] = learning_rate
    return OptimizerSpec(steps=steps, **values)


def utility_table(reward: ConfigDict, *, prompt_aware: bool) -> tuple[tuple[Utility, ...], dict[str, int]]:
    """The utilities of a stage, and which of them each prompt type is trained under (any other type: number 0)."""
    by_type = reward.utility_by_type if prompt_aware else {}
    utilities = [_utility(reward.utility, "utility")]
    index = {}
    for kind in sorted(by_type):
        index[kind] = len(utilities)
        utilities.append(_utility(by_type[kind], f"utility_by_type.{kind}"))
    return tuple(utilities), index


def _utility(section: ConfigDict, key: str) -> Utility:
    """The utility of a section; a user's own file is read here."""
    unset = ""
    try:
        made = make_utility(**section.to_dict())
        own = ":" in section.name
        unset = unsettable(type(made)) if own else ""
        _try_out(made)
        if own:  # of the others it is proved
            check_shape(shape_of.__wrapped__(made, True), made)  # a class that is read anew is never found in a cache
    except (Exception, SystemExit) as error:  # whatever a user's file may do
        hint = f"; {unset}" if unset else ""
        raise UserError(f"config.reward.{key}.name: {section.name}: {told(error, section.name)}{hint}") from None
    return made


def utility_notes(config: ConfigDict) -> list[str]:
    """What there is to say of the utilities of the user's own that the reward stages will be trained under."""
    trained = {"reward", "reward_common", "critique"} & set(config.stages) and config.reward.loss == "utility"
    utilities = utility_table(config.reward, prompt_aware=True)[0] if trained else ()
    return [f"utility {type(one).__name__}: {note}" for one in utilities if (note := unsettable(type(one)))]


def check_utilities(config: ConfigDict) -> None:
    """See that the utilities of the reward stages exist and work, the user's own too, before anything is trained.

    Raises:
      UserError: one does not; names the key.
    """
    for stage in sorted({"reward", "reward_common", "critique"} & set(config.stages)):
        prompt_aware = stage != "reward_common"
        reward_bounded(config.reward, prompt_aware=prompt_aware)
        for utility in utility_table(config.reward, prompt_aware=prompt_aware)[0]:
            _check_gaps(utility, config.data.list_size)


def _check_gaps(utility: Utility, size: int) -> None:
    """A utility that compares neighbours alone asks for its gaps only where they lie above epsilon."""
    if not isinstance(utility, Quantile):
        return
    weights = np.diagonal(utility.pair_weights(jnp.arange(size), jnp.ones(size, bool)), 1)
    smallest = float(weights.min() / weights.sum())
    if utility.epsilon > smallest:
        raise UserError(
            f"config.reward.utility: epsilon {utility.epsilon} is above {smallest:.4f}, the smallest gap that "
            f"{type(utility).__name__} asks for in lists of {size}; it would not be reached"
        )


def _try_out(utility: Utility) -> None:
    """See that a utility answers all that is asked of it. Raises whatever it raises, or ValueError."""
    gaps = jnp.linspace(-1.0, 1.0, 9)
    for what in (utility.value, utility.slope, utility.curvature):
        if not np.all(np.isfinite(what(gaps))):
            raise ValueError(f"{what.__name__} is not finite for all gaps in [-1, 1]")
    utility.limit_law()
    weights = utility.pair_weights(jnp.arange(4), jnp.ones(4, bool))
    if weights is not None and weights.shape != (4, 4):
        raise ValueError(f"pair_weights of 4 responses has the shape {weights.shape}, not (4, 4)")
    if not unit_range(utility) > 0:
        raise ValueError("does not increase from gap 0 to gap 1, as far as float32 can tell")


def reward_bounded(reward: ConfigDict, *, prompt_aware: bool = True) -> bool:
    """Whether rewards are confined to [0, 1]: as configured, or (auto) if any utility in use asks for it."""
    utilities = utility_table(reward, prompt_aware=prompt_aware)[0] if reward.loss == "utility" else ()
    needed = [type(utility).__name__ for utility in utilities if utility.needs_bounded_rewards]
    if reward.bounded == "no" and needed:  # a member of the user's own, which the configuration's checks do not know
        raise UserError(f"config.reward.bounded: no, but {needed[0]} needs rewards in [0, 1]; use auto or yes")
    return bool(needed) if reward.bounded == "auto" else reward.bounded == "yes"


def trained_bounded(reward: ConfigDict, *, prompt_aware: bool = True) -> bool:
    """Whether the rewards of a model that has been trained under these settings are confined to [0, 1].

    No code is run for it: ``settle_bounded`` has left the answer in the settings, where it takes code to tell.

    Raises:
      UserError: it takes code, and the settings are from before that.
    """
    if reward.bounded != "auto":
        return bool(reward.bounded == "yes")
    for section in (reward.utility, *reward.utility_by_type.values()):
        if reward.loss == "utility" and ":" in section.name:
            raise UserError(
                f"config.reward.bounded: auto, which depends on {section.name}; code that a run's config.json names is "
                'not run: write "yes" or "no" for "auto" there'
            )
    return reward_bounded(reward, prompt_aware=prompt_aware)


def settle_bounded(config: ConfigDict) -> None:
    """Say "yes" or "no" in ``config.reward.bounded`` in place of "auto", where a utility of the user's own decides it:
    whoever reads the run later need not run that file.

    Raises:
      UserError: the file is no utility, or the stages would not agree.
    """
    reward, stages = config.reward, {"reward", "reward_common", "critique"} & set(config.stages)
    own = any(":" in section.name for section in (reward.utility, *reward.utility_by_type.values()))
    if reward.loss == "utility" and reward.bounded == "auto" and own and stages:
        found = {reward_bounded(reward, prompt_aware=stage != "reward_common") for stage in stages}
        if len(found) > 1:
            raise UserError("config.reward.bounded: auto, but reward and reward_common would differ in it; say yes")
        reward.bounded = "yes" if found.pop() else "no"


def reward_spec(reward: ConfigDict, decoder: DecoderSpec, *, prompt_aware: bool) -> RewardSpec:
    """The reward model of a stage."""
    utilities, _ = utility_table(reward, prompt_aware=prompt_aware)
    return RewardSpec(
        decoder=decoder,
        bounded=reward_bounded(reward, prompt_aware=prompt_aware),
        utilities=utilities,
        weights=tuple(1.0 / unit_range(utility) for utility in utilities) if reward.balance_utilities else None,
        feedback=FeedbackSpec(
            loss=reward.loss,
            top=reward.top_k,
            tie=reward.tie,
            label_smoothing=reward.label_smoothing,
            margin=reward.margin,
            centering=reward.centering,
            **reward.weights,
            **reward.scores,
        ),
    )


def critique_spec(config: ConfigDict, decoder: DecoderSpec, *, eos_id: int, pad_id: int) -> CritiqueSpec:
    """The model of the critique stage: utilities and range of the rewards as in the reward stage."""
    section = config.critique
    utilities, _ = utility_table(config.reward, prompt_aware=True)
    return CritiqueSpec(
        decoder=decoder,
        bounded=reward_bounded(config.reward),
        utilities=utilities,
        max_critique=section.max_tokens,
        eos_id=eos_id,
        pad_id=pad_id,
        weights=tuple(1.0 / unit_range(utility) for utility in utilities) if config.reward.balance_utilities else None,
        lm_weight=section.lm_weight,
        own={"data": 0.0, "mixed": 0.5, "own": 1.0}[section.source],
        first_steps=section.first_steps,
        temperature=section.temperature,
    )


def ensemble_spec(reward: ConfigDict) -> EnsembleSpec:
    """How many reward models a stage trains together."""
    return EnsembleSpec(reward.ensemble.members, reward.ensemble.kind)


def sampling_spec(ppo: ConfigDict) -> SamplingSpec:
    """How PPO samples."""
    return SamplingSpec(temperature=ppo.temperature, top_k=ppo.top_k, top_p=ppo.top_p)


def regulariser(ppo: ConfigDict) -> Regulariser:
    """The price of divergence that ``config.ppo.kl`` describes.

    Raises:
      UserError: the choice has no meaning, or no effect.
    """
    kl = ppo.kl
    problem = contradiction(kl.estimator, kl.placement, kl.level, kl.importance)
    if problem:
        raise UserError(f"config.ppo.kl.{'importance' if kl.importance else 'estimator'}: {problem}")
    made = Regulariser(
        divergence(kl.divergence, kl.alpha, "ppo.kl.divergence"),
        kl.estimator,
        kl.placement,
        kl.level,
        importance=kl.importance,
    )
    if made.useless():
        raise UserError(
            f"config.ppo.kl.placement: {kl.placement} would have no effect: {made.bias()}; use reward, or estimator k2"
        )
    return made


def check_divergence(config: ConfigDict) -> None:
    """See that PPO's price of divergence, and that of f-DPO, mean something, before anything is trained.

    Raises:
      UserError: it does not; names the key.
    """
    if "ppo" in config.stages:
        regulariser(config.ppo)
    if dpo.used(config) and config.dpo.loss == "f_dpo":
        divergence(config.dpo.divergence, config.dpo.alpha, "dpo.divergence", direct=True)


def stop_token(config: ConfigDict, tokenizer: Tokenizer) -> int | None:
    """The id of ``config.ppo.truncate.token``, None without one.

    Raises:
      UserError: it is not one token.
    """
    text = config.ppo.truncate.token
    if not text:
        return None
    ids = tokenizer.encode(text)
    if len(ids) != 1 or tokenizer.decode(ids).strip() != text.strip():
        raise UserError(f"config.ppo.truncate.token: {text!r} is not one token of the tokenizer but {ids}")
    return ids[0]


def rollout_spec(
    config: ConfigDict,
    policy: DecoderSpec,
    reward: DecoderSpec,
    *,
    bounded: bool,
    eos_id: int,
    pad_id: int,
    ensemble: EnsembleSpec = ONE_MODEL,
    stop_id: int | None = None,
    value: DecoderSpec | None = None,
    samples: int = 1,
) -> RolloutSpec:
    """The fixed side of a rollout, scored by a reward model or an ``ensemble`` of them.

    ``stop_id`` is that of ``stop_token``; ``value`` the decoder of the value model, where it is not the reward model's;
    ``samples`` how many rows are expected to have the same prompt.
    """
    ppo, missing = config.ppo, config.ppo.missing_eos
    return RolloutSpec(
        policy=policy,
        reward=reward,
        reward_bounded=bounded,
        max_response=config.data.max_response,
        eos_id=eos_id,
        pad_id=pad_id,
        sampling=sampling_spec(ppo),
        missing_eos_score=missing.score if missing.rule in ("replace", "subtract") else None,
        ensemble=ensemble,
        aggregate=ppo.aggregate,
        uncertainty_penalty=ppo.uncertainty_penalty,
        fixed=ppo.episode == "fixed",
        stop_id=stop_id,
        stop_after=ppo.truncate.after,
        missing_eos_added=missing.rule == "subtract",
        keeps_finished=missing.rule == "mask",
        value=value,
        shared=ppo.value.network == "shared",
        value_after=ppo.score_at == "after",
        divergence=regulariser(ppo).divergence if ppo.kl.estimator == "exact" else None,
        samples=samples,
    )


def ppo_spec(ppo: ConfigDict, policy: DecoderSpec, value: DecoderSpec | None) -> PPOSpec:
    """The fixed side of an update; ``value`` None trains no value model."""
    kl = ppo.kl
    return PPOSpec(
        policy=policy,
        value=value,
        temperature=ppo.temperature,
        epochs=ppo.epochs,
        minibatches=ppo.minibatches,
        gamma=ppo.gamma,
        lambda_=ppo.lambda_,
        clip=ppo.clip,
        value_clip=ppo.value_clip,
        value_coefficient=ppo.value_coefficient,
        whiten_advantages=ppo.whiten_advantages,
        microbatches=ppo.accumulate,
        kl=KLSpec(kl.coefficient, kl.controller, kl.target, float(kl.horizon), regulariser(ppo)),
        advantage=ppo.advantage,
        group=ppo.samples_per_prompt,
        group_baseline=ppo.group_baseline,
        loss_mean=ppo.loss_mean,
        clip_high=ppo.clip_high or None,
        advantage_clip=ppo.advantage_clip,
        mask_unfinished=ppo.missing_eos.rule == "mask",
        rewards=RewardRules(ppo.score_at, ppo.rewards.scale == "running_std", ppo.rewards.clip, ppo.rewards.whiten),
        shared=ppo.value.network == "shared",
        normalize_value=ppo.value.normalize,
        stop_kl=ppo.stop_kl,
        entropy=ppo.entropy,
        pretraining=ppo.pretraining.coefficient,
    )
