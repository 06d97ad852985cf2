"""Every setting of a run: its default, its unit, what it does, and which values are refused.

``default_config()`` is the whole vocabulary; the files of ``configs/`` start from it and the command line overrides it.
``validate`` raises ``UserError`` with one line that begins with the full key, before any device is touched.
"""

import copy
import difflib
import fnmatch
import json
import math
import os
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from rlhf_jax.errors import UserError

STAGES = ("sft", "reward", "reward_common", "segments", "ppo", "critique")  # in the order in which they may run
UTILITIES = ("power", "negative_power", "log", "log_sigmoid", "linear", "exponential", "quantile")
UNBOUNDED = ("log_sigmoid",)  # those whose best rewards exist without being confined to [0, 1]
# Neighbours alone are compared, so gaps on the straight part of the utility would come out in any order.
QUANTILE_EPSILON = 0.02
DATA_FORMATS = (
    "auto", "lists", "hh", "preference", "unpaired", "demonstration", "messages", "text", "prompt", "ultrafeedback",
    "nectar", "helpsteer3", "nemo_rl", "rewardbench", "rewardbench2", "label_studio", "argilla",
)  # fmt: skip
LEVELS = ("sequence", "sentence", "sub_sentence", "token")  # at which a fine-grained reward is paid
OWN = "this"  # in ppo.dense.models: the fine-grained reward model that this run makes itself
AGGREGATES = ("mean", "worst", "uncertainty", "lower")  # of the members of a reward ensemble
FEEDBACK = ("lists", "pairs", "margins", "ties", "edges", "labels", "scores", "mixed")  # of the embedded world
WORLD_PROMPT_TYPES = ("open", "closed")  # of the embedded data; users' files may have any others


def utility(
    name: str,
    *,
    gamma: float | int = 0.5,
    sigma: float | int = 1.0,
    epsilon: float | int = 0.1,
    extension: str = "tangent",
    a: float | int = 2.0,
    b: float | int = 2.0,
) -> ConfigDict:
    """The settings of one utility U of a reward gap x (better minus worse), locked."""
    c = ConfigDict()
    c.name = name  # power x^gamma, negative_power -x^-gamma, log, log_sigmoid log s(x/sigma), linear,
    #                exponential -exp(-x/sigma), quantile (rewards follow Beta(a, b)), or FILE.py:CLASS of your own
    c.gamma = float(gamma)  # exponent; power: in (0, 1], negative_power: above 0, others: unused
    c.sigma = float(sigma)  # scale of log_sigmoid and exponential, in units of reward; others: unused
    c.a = float(a)  # first shape of quantile's Beta law, above 0; others: unused
    c.b = float(b)  # second shape of quantile's Beta law, above 0; others: unused
    c.epsilon = float(epsilon)  # gap below which the extension takes over, in units of reward
    c.extension = extension  # tangent: straight line below epsilon; shift: U(x + epsilon)
    return c.lock()


def optimizer(learning_rate: float | int, warmup: int) -> ConfigDict:
    """AdamW and its schedule, the same settings in every stage, locked."""
    c = ConfigDict()
    c.learning_rate = float(learning_rate)  # peak, per update
    c.warmup = warmup  # updates of linear rise from 0 to the peak
    c.schedule = "cosine"  # after the warmup: cosine or linear down to 0, or constant
    c.weight_decay = 0.0  # decoupled; multiplied by the learning rate
    c.clip_norm = 1.0  # global norm above which gradients are scaled down; 0: never
    c.beta1 = 0.9  # decay of Adam's first moment
    c.beta2 = 0.99  # decay of Adam's second moment
    c.epsilon = 1e-8  # added to the root of Adam's second moment
    return c.lock()


def default_config() -> ConfigDict:
    """A tiny model on the embedded world, through all three classical stages; locked."""
    c = ConfigDict()
    c.seed = 0  # of parameters, data order and sampling; the same seed repeats the run exactly
    c.stages = ("sft", "reward", "ppo")  # what to run, an ordered subset of STAGES; reward_common
    #                                      trains a second reward model with no utility_by_type, segments a
    #                                      fine-grained one from marked parts of responses

    c.model = ConfigDict()
    c.model.width = 64  # size of the residual stream; divisible by heads
    c.model.depth = 2  # decoder blocks
    c.model.heads = 4  # query heads; divisible by kv_heads
    c.model.kv_heads = 2  # key and value heads; fewer than heads is grouped-query attention
    c.model.mlp_width = 128  # hidden units of each feed-forward block
    c.model.norm = "rms"  # rms or layer
    c.model.positions = "rotary"  # rotary or learned
    c.model.activation = "swiglu"  # swiglu or gelu
    c.model.tied = True  # the output matrix is the embedding matrix
    c.model.max_positions = 1024  # longest prompt + response, tokens
    c.model.dtype = "float32"  # of activations, float32 or bfloat16; parameters stay float32

    c.tokenizer = ConfigDict()
    c.tokenizer.kind = "word"  # word (embedded world only), byte, bpe (trained first), pretrained
    c.tokenizer.vocab_size = 4096  # tokens of a freshly trained bpe; other kinds: unused
    c.tokenizer.path = ""  # pretrained: a local directory or a hub name; other kinds: unused

    c.data = ConfigDict()
    c.data.path = ""  # a file of feedback, a prepared folder, tfds:NAME:SPLIT or hub:OWNER/NAME; empty: embedded world
    c.data.format = "auto"  # of what is at path, one of DATA_FORMATS; auto: by the fields of its first row
    c.data.template = "{prompt}"  # wrapped around bare prompts and single questions
    c.data.annotators = "overall"  # rows with several judgements (helpsteer3): overall, or one record for each (apart)
    c.data.max_prompt = 12  # tokens; longer prompts lose their beginning
    c.data.max_response = 20  # tokens with the end-of-sequence token; longer responses lose their end
    c.data.validation_fraction = 0.1  # held out: of a file by a hash of the prompt; of the embedded
    #                                      world its share of the demonstrations (lists have their own split)
    c.data.on_bad_row = "error"  # error: stop at the first bad row; skip: count it and go on
    c.data.task = "classic"  # embedded world: classic, or local (answers of several phrases, defects marked in each)
    c.data.ties = "broken"  # embedded world: broken (a forced total order) or kept (tiers)
    c.data.feedback = "lists"  # embedded world: lists, pairs, margins (graded pairs), ties (pairs that may be equal),
    #                            edges (lists in two piles), labels (good or bad), scores, or mixed (by record)
    c.data.noise = 0.0  # embedded world: temperature of the annotators' choices, of scores the standard deviation, both
    #                     in units of gold reward; 0: exact; lists are always exact
    c.data.judges = 1  # embedded world: annotators, up to 3: careful, hasty, careless, with 1, 2 and 4 times the noise
    c.data.tie_margin = 0.0  # scored lists of a file: scores closer than this are tied
    c.data.list_size = 8  # responses per list; of a longer list so many are kept, evenly spaced from best to worst

    c.data.refinements = "none"  # of responses that somebody mended: none; sft: demonstrations too; pairs: the mended
    #                              text above the response, as lists of two; both

    c.parents = ConfigDict()  # where a stage finds checkpoints that this run does not make itself
    c.parents.sft = ""  # a run directory; empty: this one
    c.parents.reward = ""  # a run directory; empty: this one
    c.parents.reward_start = ""  # a run directory, for config.reward.init=reward

    c.parallel = ConfigDict()
    c.parallel.mode = "mesh"  # mesh: jit over a device mesh; pmap: replicated data parallel
    c.parallel.data = -1  # devices along the batch; -1: all that are left
    c.parallel.fsdp = 1  # devices over which the parameters are split (mesh only)
    c.parallel.tensor = 1  # devices over which one layer is split (mesh only)

    c.log = ConfigDict()
    c.log.every = 20  # steps between two rows of metrics
    c.log.tensorboard = True  # write TensorBoard files next to the JSON lines
    c.log.samples = 8  # completions shown and stored at each evaluation; 0: none

    c.checkpoint = ConfigDict()
    c.checkpoint.every = 100  # steps of sft and reward between checkpoints; the last step is saved too
    c.checkpoint.every_iterations = 5  # the same for PPO, whose iterations are longer
    c.checkpoint.keep = 2  # newest checkpoints kept per stage

    c.sft = ConfigDict()
    c.sft.steps = 500  # updates
    c.sft.batch_size = 16  # packed rows per update, over all devices
    c.sft.row_length = 64  # tokens per packed row; at least max_prompt + max_response
    c.sft.optimizer = optimizer(3e-3, warmup=20)
    c.sft.eval_every = 250  # steps between evaluations on held-out data

    c.reward = ConfigDict()
    c.reward.steps = 1400  # updates
    c.reward.batch_size = 8  # ranked lists per update, over all devices
    c.reward.init = "sft"  # sft: start from the SFT checkpoint; scratch: from random parameters;
    #                        reward: from another run's reward model, config.parents.reward_start
    c.reward.bounded = "auto"  # rewards in [0, 1] by a sigmoid: yes, no, or auto (no only if every utility is
    #                            log_sigmoid, the only one defined on all gaps, or the loss is no utility's)
    c.reward.loss = "utility"  # of comparisons: utility, plackett_luce, rao_kupper or davidson (the last two know ties)
    c.reward.top_k = 0  # plackett_luce: the choices of the best k alone; 1: softmax best-of-K; 0: all
    c.reward.tie = 0.5  # rao_kupper: threshold, in units of reward; davidson: weight of a tie; both above 0
    c.reward.label_smoothing = 0.0  # utility: share of comparisons taken to be wrong, below 1/2
    c.reward.margin = 0.0  # utility: units of reward per unit of a pair's margin in the data; 0: margins are ignored
    c.reward.centering = 0.0  # weight of (2 (mean reward of a list - centre))^2, the centre 0 or of [0, 1] its middle
    c.reward.weights = ConfigDict()  # of the kinds of feedback in the loss; a list with several kinds sums them
    c.reward.weights.ranks = 1.0  # comparisons; 0: not trained on
    c.reward.weights.labels = 1.0  # verdicts in [0, 1] on single responses, by cross-entropy; 0: not trained on
    c.reward.weights.scores = 0.0  # scalar scores, by regression; 0: not trained on
    c.reward.scores = ConfigDict()
    c.reward.scores.low = 0.0  # score that becomes reward 0
    c.reward.scores.high = 1.0  # score that becomes reward 1
    c.reward.scores.huber = 0.0  # error, in reward, beyond which the loss is linear; 0: squares throughout
    c.reward.annotator_weights = ConfigDict()  # annotator -> what his or her lists count for; others count for 1
    c.reward.utility = utility("negative_power")  # of prompt types not named in utility_by_type
    c.reward.utility_by_type = ConfigDict()  # prompt type -> the same keys: prompt-aware
    c.reward.balance_utilities = False  # divide each utility by U(1) - U(0): the same best rewards, but
    #                                     no prompt type's gradients drown those of the others
    c.reward.optimizer = optimizer(1e-3, warmup=20)
    c.reward.eval_every = 700  # steps between evaluations on held-out data
    c.reward.ensemble = ConfigDict()
    c.reward.ensemble.members = 1  # reward models trained at once; 1: no ensemble
    c.reward.ensemble.kind = "models"  # models: they share nothing but the data; heads: one decoder, a head each
    c.reward.ensemble.bootstrap = False  # each member counts each list Poisson(1) times instead of once
    c.reward.eval_train = 0  # training lists scored at each evaluation too: the first of each prompt type in turn

    c.critique = ConfigDict()  # a reward model that first writes a critique; utilities and the range of its rewards
    #                            are those of config.reward, whose other settings are not read
    c.critique.steps = 700  # updates
    c.critique.batch_size = 8  # ranked lists per update, over all devices
    c.critique.init = "sft"  # sft: start from the SFT checkpoint; scratch: from random parameters
    c.critique.separator = ":"  # text between response and critique; of words that the tokenizer knows
    c.critique.max_tokens = 16  # of a critique, its end-of-sequence token included; longer ones lose their end
    c.critique.source = "mixed"  # after which critiques rewards are read in training: data (those given), own (written
    #                              by the model itself), mixed (each response the one or the other by a coin)
    c.critique.first_steps = 350  # updates on the given critiques alone before any own; data: unused
    c.critique.lm_weight = 1.0  # weight of the given critiques' loss, nats per token, beside the ranking loss
    c.critique.temperature = 1.0  # of sampled critiques, in training and where samples is above 1
    c.critique.samples = 1  # critiques per response at evaluation: 1: the greedy one; more: sampled, rewards averaged
    c.critique.optimizer = optimizer(1e-3, warmup=20)
    c.critique.eval_every = 350  # steps between evaluations on held-out data

    c.segments = ConfigDict()  # the fine-grained reward model
    c.segments.steps = 800  # updates
    c.segments.batch_size = 64  # responses per update, over all devices
    c.segments.init = "sft"  # sft: start from the SFT checkpoint; scratch: from random parameters
    c.segments.kinds = (  # KIND:LEVEL, a head for each: a kind of spans in the data, and the parts judged, of LEVELS
        "plain:sub_sentence",
        "repeated:sub_sentence",
        "wrong_city:sub_sentence",
        "short:sequence",
    )
    c.segments.least_words = 5  # of a sub-sentence; a shorter piece is joined to its neighbour
    c.segments.unmarked = "good"  # responses without any span: good (nothing was found) or skip (nobody looked)
    c.segments.optimizer = optimizer(1e-3, warmup=20)
    c.segments.eval_every = 400  # steps between evaluations on held-out data

    c.ppo = ConfigDict()
    c.ppo.iterations = 40  # rollouts, each followed by epochs x minibatches updates
    c.ppo.prompts_per_iteration = 64  # different prompts per rollout, over all devices
    c.ppo.samples_per_prompt = 2  # responses to each prompt
    c.ppo.epochs = 4  # passes over a rollout
    c.ppo.minibatches = 4  # updates per pass; divides prompts_per_iteration x samples_per_prompt
    c.ppo.temperature = 1.0  # of sampling and of the policy's log-probabilities
    c.ppo.top_k = 0  # sample among this many most likely tokens; 0: all
    c.ppo.top_p = 1.0  # sample among the most likely tokens of this total probability; 1: all
    c.ppo.gamma = 1.0  # discount per token
    c.ppo.lambda_ = 0.95  # GAE's trade of bias (0) against variance (1)
    c.ppo.clip = 0.2  # the probability ratio's pull ends outside 1 - clip .. 1 + clip
    c.ppo.value_clip = 0.2  # the value's move per rollout, in units of reward
    c.ppo.value_coefficient = 0.1  # weight of the value loss; the value network has an optimizer of its own,
    #                                so its pace is set by value_learning_rate, not by this
    c.ppo.kl = ConfigDict()
    c.ppo.kl.coefficient = 0.05  # reward lost per nat of KL to the SFT policy (adaptive: at first)
    c.ppo.kl.controller = "fixed"  # fixed, or adaptive towards the target
    c.ppo.kl.target = 6.0  # adaptive: nats per response
    c.ppo.kl.horizon = 10_000  # adaptive: episodes over which the coefficient corrects itself
    c.ppo.whiten_advantages = True  # to mean 0 and variance 1 over the whole rollout
    c.ppo.missing_eos = ConfigDict()
    c.ppo.missing_eos.rule = "replace"  # replace: unfinished responses get score; none: their own
    c.ppo.missing_eos.score = -1.0  # in units of reward
    c.ppo.dense = ConfigDict()  # fine-grained reward models, which pay at the last token of each part of a response
    c.ppo.dense.models = ()  # run directories with a stage segments, "this" for this run; empty: no such model
    c.ppo.dense.at = "parts"  # where they pay: parts (each at its last token), or end (all at that of the response)
    c.ppo.dense.value = "sign"  # reward of a part: sign (+1 good, -1 not), probability (of good) or logit
    c.ppo.dense.weights = ()  # KIND:WEIGHT, what the rewards of a kind are multiplied by; others count for 1
    c.ppo.dense.sequence = 1.0  # what the reward model's own rewards are multiplied by; 0: there need be no such model
    c.ppo.aggregate = "mean"  # of the members of a reward ensemble: mean, worst (least), uncertainty (mean - penalty x
    #                           variance) or lower (mean - penalty x standard deviation)
    c.ppo.uncertainty_penalty = 1.0  # of uncertainty, per unit of reward, and of lower, in deviations; others: unused
    c.ppo.normalize_reward = False  # affine, to mean 0 and deviation 1 on samples of the SFT policy
    c.ppo.optimizer = optimizer(3e-4, warmup=20)  # of the policy
    c.ppo.value_learning_rate = 1e-3  # peak, of the value network; its schedule is the policy's
    c.ppo.eval_every = 20  # iterations between evaluations on held-out prompts

    return lock(c)


def lock(config: ConfigDict) -> ConfigDict:
    """Lock every key but leave ``reward.utility_by_type`` open to new prompt types, ``reward.annotator_weights`` to
    annotators; returns config.
    """
    config.lock()
    config.reward.utility_by_type.unlock()
    config.reward.annotator_weights.unlock()
    return config


# ---------------------------------------------------------------------------------- the checks


def kind_and_level(text: str) -> tuple[str, str]:
    """The two parts of an entry of ``segments.kinds``; a kind may have colons, a level has none."""
    kind, _, level = text.rpartition(":")
    return kind, level


def _different(entries: tuple[str, ...]) -> bool:
    return len({entry.rpartition(":")[0] for entry in entries}) == len(entries)


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


class Rule(NamedTuple):
    """What a value must satisfy, and how the error says so."""

    holds: Callable[[Any], bool]
    text: str


def _one_of(*names: str) -> Rule:
    return Rule(lambda v: v in names, "|".join(names))


_COUNT = Rule(lambda v: v >= 1, "at least 1")
_NATURAL = Rule(lambda v: v >= 0, "at least 0")
_POSITIVE = Rule(lambda v: v > 0, "above 0")
_NOT_NEGATIVE = Rule(lambda v: v >= 0, "at least 0")
_ANY = Rule(lambda v: True, "any finite number")
_CLOSED_UNIT = Rule(lambda v: 0 <= v <= 1, "in [0, 1]")
_OPEN_UNIT = Rule(lambda v: 0 < v < 1, "in (0, 1)")
_DECAY = Rule(lambda v: 0 <= v < 1, "in [0, 1)")

# Key patterns and the rule of the values under them; the first match counts.
RULES: dict[str, Rule] = {
    "seed": Rule(lambda v: 0 <= v < 2**32, "in [0, 2^32)"),
    "model.norm": _one_of("rms", "layer"),
    "model.positions": _one_of("rotary", "learned"),
    "model.activation": _one_of("swiglu", "gelu"),
    "model.dtype": _one_of("float32", "bfloat16"),
    "model.tied": Rule(lambda v: isinstance(v, bool), "True or False"),
    "model.*": _COUNT,
    "tokenizer.kind": _one_of("word", "byte", "bpe", "pretrained"),
    "tokenizer.vocab_size": Rule(lambda v: v >= 260, "at least 260 (256 bytes and special tokens)"),
    "data.format": _one_of(*DATA_FORMATS),
    "data.template": Rule(lambda v: v.count("{prompt}") == 1, "a text with {prompt} in it once"),
    "data.annotators": _one_of("overall", "apart"),
    "data.max_prompt": _COUNT,
    "data.max_response": Rule(lambda v: v >= 2, "at least 2 (one token and the end of sequence)"),
    "data.validation_fraction": _OPEN_UNIT,
    "data.on_bad_row": _one_of("error", "skip"),
    "data.task": _one_of("classic", "local"),
    "data.ties": _one_of("broken", "kept"),
    "data.feedback": _one_of(*FEEDBACK),
    "data.noise": _NOT_NEGATIVE,
    "data.judges": Rule(lambda v: 1 <= v <= 3, "1, 2 or 3"),
    "data.tie_margin": _NOT_NEGATIVE,
    "data.list_size": Rule(lambda v: v >= 2, "at least 2"),
    "data.refinements": _one_of("none", "sft", "pairs", "both"),
    "parallel.mode": _one_of("mesh", "pmap"),
    "parallel.data": Rule(lambda v: v == -1 or v >= 1, "-1 (all devices left) or at least 1"),
    "parallel.*": _COUNT,
    "log.every": _COUNT,
    "log.samples": _NATURAL,
    "checkpoint.*": _COUNT,
    "*.optimizer.learning_rate": _POSITIVE,
    "*.optimizer.warmup": _NATURAL,
    "*.optimizer.schedule": _one_of("cosine", "linear", "constant"),
    "*.optimizer.weight_decay": _NOT_NEGATIVE,
    "*.optimizer.clip_norm": _NOT_NEGATIVE,
    "*.optimizer.beta?": _DECAY,
    "*.optimizer.epsilon": _POSITIVE,
    "reward.init": _one_of("sft", "scratch", "reward"),
    "reward.bounded": _one_of("auto", "yes", "no"),
    "reward.eval_train": _NATURAL,
    "reward.loss": _one_of("utility", "plackett_luce", "rao_kupper", "davidson"),
    "reward.top_k": _NATURAL,
    "reward.tie": _POSITIVE,
    "reward.label_smoothing": Rule(lambda v: 0 <= v < 0.5, "in [0, 0.5)"),
    "reward.margin": _NOT_NEGATIVE,
    "reward.centering": _NOT_NEGATIVE,
    "reward.weights.*": _NOT_NEGATIVE,
    "reward.annotator_weights.*": _NOT_NEGATIVE,
    "reward.scores.huber": _NOT_NEGATIVE,
    "reward.scores.*": _ANY,
    "reward.ensemble.kind": _one_of("models", "heads"),
    "reward.ensemble.bootstrap": Rule(lambda v: isinstance(v, bool), "True or False"),
    "reward.balance_utilities": Rule(lambda v: isinstance(v, bool), "True or False"),
    "reward.utility*.name": Rule(lambda v: v in UTILITIES or ":" in v, "|".join((*UTILITIES, "FILE.py:CLASS"))),
    "reward.utility*.extension": _one_of("tangent", "shift"),
    "reward.utility*": _ANY,  # the ranges depend on the name: _utility_problems
    "segments.kinds": Rule(
        lambda v: bool(v) and all(kind_and_level(one)[1] in LEVELS for one in v) and _different(v),
        f"different kinds as KIND:LEVEL, levels {', '.join(LEVELS)}",
    ),
    "segments.init": _one_of("sft", "scratch"),
    "segments.unmarked": _one_of("good", "skip"),
    "segments.*": _COUNT,
    "sft.*": _COUNT,
    "reward.*": _COUNT,
    "critique.init": _one_of("sft", "scratch"),
    "critique.separator": Rule(lambda v: bool(v.strip()), "a text that is not blank"),
    "critique.max_tokens": Rule(lambda v: v >= 2, "at least 2 (one token and the end of sequence)"),
    "critique.source": _one_of("data", "own", "mixed"),
    "critique.first_steps": _NATURAL,
    "critique.lm_weight": _NOT_NEGATIVE,
    "critique.temperature": _POSITIVE,
    "critique.*": _COUNT,
    "ppo.temperature": _POSITIVE,
    "ppo.top_k": _NATURAL,
    "ppo.top_p": Rule(lambda v: 0 < v <= 1, "in (0, 1]"),
    "ppo.gamma": _CLOSED_UNIT,
    "ppo.lambda_": _CLOSED_UNIT,
    "ppo.clip": _OPEN_UNIT,
    "ppo.value_clip": _POSITIVE,
    "ppo.value_coefficient": _NOT_NEGATIVE,
    "ppo.kl.coefficient": _NOT_NEGATIVE,
    "ppo.kl.controller": _one_of("fixed", "adaptive"),
    "ppo.kl.target": _POSITIVE,
    "ppo.kl.horizon": _COUNT,
    "ppo.dense.models": Rule(lambda v: len(set(v)) == len(v) and all(v), "different run directories"),
    "ppo.dense.at": _one_of("parts", "end"),
    "ppo.dense.value": _one_of("sign", "probability", "logit"),
    "ppo.dense.weights": Rule(
        lambda v: all(_is_number(one.rpartition(":")[2]) and ":" in one for one in v) and _different(v),
        "different kinds as KIND:WEIGHT, weights finite numbers",
    ),
    "ppo.dense.sequence": _NOT_NEGATIVE,
    "ppo.missing_eos.rule": _one_of("replace", "none"),
    "ppo.missing_eos.score": _ANY,
    "ppo.value_learning_rate": _POSITIVE,
    "ppo.whiten_advantages": Rule(lambda v: isinstance(v, bool), "True or False"),
    "ppo.aggregate": _one_of(*AGGREGATES),
    "ppo.uncertainty_penalty": _NOT_NEGATIVE,
    "ppo.normalize_reward": Rule(lambda v: isinstance(v, bool), "True or False"),
    "ppo.*": _COUNT,
}


def rule_of(key: str) -> Rule | None:
    """The rule of a dotted key (without ``config.``), None for one whose every value is allowed."""
    return next((rule for pattern, rule in RULES.items() if fnmatch.fnmatch(key, pattern)), None)


def did_you_mean(word: str, options: Iterable[str]) -> str:
    """``"; did you mean X?"`` for the nearest option, empty if none is near."""
    near = difflib.get_close_matches(word, list(options), n=1, cutoff=0.5)
    return f"; did you mean {near[0]}?" if near else ""


def unknown_key(key: str) -> UserError:
    """The error of a dotted key (without ``config.``) that does not exist, naming the nearest that does."""
    known = default_config()
    parts = ["learning_rate" if part == "lr" else part for part in key.split(".")]
    by_type = parts[:2] == ["reward", "utility_by_type"] and len(parts) > 2
    known.reward.utility_by_type[(parts[2] if by_type else "") or "open"] = utility("log")
    names = [f"config.{name}" for name, _ in leaves(known)]
    names = [name for name in names if name.split(".")[-1] == parts[-1]] or names  # right word, wrong group
    return UserError(f"config.{key}: no such key{did_you_mean('.'.join(['config', *parts]), names)}")


def leaves(config: ConfigDict, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Pairs of dotted key (without ``config.``) and value."""
    for name, value in config.items():
        if isinstance(value, ConfigDict):
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def validate(config: ConfigDict) -> None:
    """Raise ``UserError`` for the first setting, or pair of settings, that no run could honour."""
    check_keys(config)
    for key, value in leaves(config):
        if isinstance(value, float) and not math.isfinite(value):
            raise UserError(f"config.{key}: {value} is not a finite number")
        rule = rule_of(key)
        if rule is not None and not rule.holds(value):
            hint = did_you_mean(value, rule.text.split("|")) if "|" in rule.text else ""
            raise UserError(f"config.{key}: {value!r} is not allowed, must be {_either(rule.text)}{hint}")
    _check_stages(config.stages)
    for key, text in _problems(config):
        raise UserError(f"config.{key}: {text}")


def _either(text: str) -> str:
    return "one of " + ", ".join(text.split("|")) if "|" in text else text


def check_keys(config: ConfigDict) -> None:
    """Raise ``UserError`` unless config has exactly the keys of ``default_config``, with values of their types."""
    _check_keys(config, default_config(), "")


def _check_keys(config: ConfigDict, known: ConfigDict, prefix: str) -> None:
    for name in config:
        if name not in known:
            raise unknown_key(prefix + name)
    for name, default in known.items():
        key = prefix + name
        if name not in config:
            raise UserError(f"config.{key}: missing; start from rlhf_jax.config.default_config()")
        value = config[name]
        if key == "reward.utility_by_type" and isinstance(value, ConfigDict):
            for kind, entry in value.items():
                if not isinstance(entry, ConfigDict):
                    raise UserError(f"config.{key}.{kind}: {entry!r} is not a group of settings")
                _check_keys(entry, known.utility, f"{key}.{kind}.")
        elif key == "reward.annotator_weights" and isinstance(value, ConfigDict):
            for annotator, entry in value.items():
                if not isinstance(entry, float):
                    raise UserError(f"config.{key}.{annotator}: {entry!r} is not a number")
        elif type(value) is not type(default) or (
            isinstance(value, tuple) and not all(isinstance(one, str) for one in value)
        ):
            raise UserError(f"config.{key}: {value!r} is not {type_name(default)}")
        elif isinstance(default, ConfigDict):
            _check_keys(value, default, f"{key}.")


def type_name(value: Any) -> str:
    """The type of a setting in words, with its article."""
    names = {bool: "true or false", int: "an integer", float: "a number", str: "a text"}
    return names.get(type(value), "a list of texts" if isinstance(value, tuple) else "a group of settings")


def _check_stages(stages: tuple[str, ...]) -> None:
    for stage in stages:
        if stage not in STAGES:
            hint = did_you_mean(str(stage), STAGES)
            raise UserError(f"config.stages: no stage {stage!r}, known are {', '.join(STAGES)}{hint}")
    if not stages or list(stages) != [stage for stage in STAGES if stage in stages]:
        raise UserError(f"config.stages: {stages} is not one or more of {', '.join(STAGES)}, in this order")


def _problems(c: ConfigDict) -> Iterator[tuple[str, str]]:
    """Keys and reasons of combinations that cannot be, once every value is allowed by itself."""
    m, d, stages = c.model, c.data, c.stages
    if m.heads % m.kv_heads:
        yield "model.kv_heads", f"{m.kv_heads} does not divide config.model.heads={m.heads}"
    if m.width % m.heads:
        yield "model.width", f"{m.width} is not divisible by config.model.heads={m.heads}"
    if m.positions == "rotary" and m.width // m.heads % 2:
        yield (
            "model.width",
            f"{m.width} / {m.heads} heads is odd; rotary positions need an even size",
        )
    longest = d.max_prompt + d.max_response
    lengths = f"config.data.max_prompt + max_response = {longest} tokens"
    if longest > m.max_positions:
        yield "model.max_positions", f"{m.max_positions} is less than {lengths}"
    if "sft" in stages and c.sft.row_length < longest:
        yield "sft.row_length", f"{c.sft.row_length} is less than {lengths}"
    episodes = c.ppo.prompts_per_iteration * c.ppo.samples_per_prompt
    if "ppo" in stages and episodes % c.ppo.minibatches:
        yield (
            "ppo.minibatches",
            f"{c.ppo.minibatches} does not divide prompts_per_iteration x samples_per_prompt = {episodes}",
        )
    for axis in ("fsdp", "tensor"):
        if c.parallel.mode == "pmap" and c.parallel[axis] != 1:
            yield (
                f"parallel.{axis}",
                f"{c.parallel[axis]} needs config.parallel.mode=mesh; pmap replicates the parameters",
            )
    yield from _data_problems(c)
    yield from _parent_problems(c)
    yield from _dense_problems(c)
    yield from _utility_problems(c.reward)
    yield from _ensemble_problems(c)
    yield from _feedback_problems(c.reward)
    if "critique" in stages:
        yield from _critique_problems(c)


def _data_problems(c: ConfigDict) -> Iterator[tuple[str, str]]:
    d, t = c.data, c.tokenizer
    if d.path and not d.path.startswith(("tfds:", "hub:")) and not os.path.exists(d.path):
        yield "data.path", f"no such file or folder: {d.path}"
    if d.path and t.kind == "word":
        yield (
            "tokenizer.kind",
            "word knows the embedded world only; with config.data.path use bpe, byte or pretrained",
        )
    if d.path and d.task != "classic":
        yield "data.task", f"{d.task} is of the embedded world; config.data.path names a file"
    if not d.path and d.format != "auto":
        yield "data.format", f"{d.format} describes a file; name it by config.data.path"
    for key, default in (("feedback", "lists"), ("noise", 0.0), ("judges", 1)):
        if d.path and d[key] != default:
            yield f"data.{key}", f"{d[key]} is of the embedded world, but config.data.path names a file"
        if d.feedback == "lists" and d[key] != default:
            yield f"data.{key}", f"{d[key]} would go unused: config.data.feedback is lists, which are exact"
    if d.path and d.ties != "broken":
        yield "data.ties", f"{d.ties} is of the embedded world, but config.data.path names a file"
    for key, default in (("annotators", "overall"), ("tie_margin", 0.0)):
        if not d.path and d[key] != default:
            yield f"data.{key}", f"{d[key]} would go unused: config.data.path names no file"
    if d.feedback != "lists" and d.ties != "broken":
        yield "data.ties", f"{d.ties} would go unused: config.data.feedback is {d.feedback}"
    if t.kind == "pretrained" and not t.path:
        yield (
            "tokenizer.path",
            "empty; config.tokenizer.kind=pretrained needs a local directory or a hub name",
        )
    for kind in c.reward.utility_by_type:
        if not d.path and kind not in WORLD_PROMPT_TYPES:
            hint = did_you_mean(kind, WORLD_PROMPT_TYPES)
            yield (
                f"reward.utility_by_type.{kind}",
                f"the embedded world has the prompt types open and closed{hint}",
            )


def needed_parents(c: ConfigDict, stage: str) -> tuple[str, ...]:
    """The keys of config.parents whose checkpoints a stage starts from, if the run does not make them itself."""
    section = stage if stage in ("critique", "segments") else "reward"
    start = {"sft": ("sft",), "reward": ("reward_start",)}.get(c[section].init, ())
    judged = ("sft", "reward") if c.ppo.dense.sequence else ("sft",)
    return {"sft": (), "ppo": judged}.get(stage, start)


def _parent_problems(c: ConfigDict) -> Iterator[tuple[str, str]]:
    stages = c.stages
    for stage in stages:
        section = stage if stage in ("critique", "segments") else "reward"
        for parent in needed_parents(c, stage):
            if parent not in stages and not c.parents[parent]:
                text = f"empty, but {stage} starts from a checkpoint of {parent.removesuffix('_start')}"
                add = "" if parent == "reward_start" else f" or add {parent} to config.stages"
                scratch = "" if stage == "ppo" else f" or set config.{section}.init=scratch"
                yield f"parents.{parent}", f"{text}; give a run directory{add}{scratch}"
    if c.parents.reward_start and (c.reward.init != "reward" or not {"reward", "reward_common"} & set(stages)):
        yield "parents.reward_start", "would go unused: no stage starts from it; set config.reward.init=reward"
    for name, path in c.parents.items():
        if path and name in stages:
            yield f"parents.{name}", f"{path} would go unused: config.stages makes its own {name}"
        if path and "://" not in path and not os.path.isdir(path):
            yield f"parents.{name}", f"no such run directory: {path}"


def _dense_problems(c: ConfigDict) -> Iterator[tuple[str, str]]:
    dense = c.ppo.dense
    if "ppo" not in c.stages:
        return
    for model in dense.models:
        if model == OWN and "segments" not in c.stages:
            yield "ppo.dense.models", f"{OWN} is this run, but segments is not one of config.stages"
        if model != OWN and "://" not in model and not os.path.isdir(model):
            yield "ppo.dense.models", f"no such run directory: {model}"
    if not dense.models and not dense.sequence:
        yield "ppo.dense.sequence", "0, and config.ppo.dense.models names no other: nothing would be rewarded"
    if dense.weights and not dense.models:
        yield "ppo.dense.weights", "would go unused: config.ppo.dense.models names no model"


def _ensemble_problems(c: ConfigDict) -> Iterator[tuple[str, str]]:
    if c.reward.ensemble.bootstrap and c.reward.ensemble.members == 1:
        yield "reward.ensemble.bootstrap", "True would go unused: config.reward.ensemble.members is 1"
    if "reward" in c.stages and "ppo" in c.stages:
        yield from aggregate_problems(c, c.reward.ensemble.members)
    if c.ppo.uncertainty_penalty != default_config().ppo.uncertainty_penalty and c.ppo.aggregate in ("mean", "worst"):
        value = f"{c.ppo.uncertainty_penalty} would go unused: config.ppo.aggregate is {c.ppo.aggregate}"
        yield "ppo.uncertainty_penalty", value


def aggregate_problems(c: ConfigDict, members: int) -> Iterator[tuple[str, str]]:
    """What is wrong with PPO's aggregate against a reward model of so many members."""
    if c.ppo.aggregate != "mean" and members == 1:
        yield "ppo.aggregate", f"{c.ppo.aggregate} would go unused: the reward model is no ensemble"


def _utility_problems(reward: ConfigDict) -> Iterator[tuple[str, str]]:
    named = {f"utility_by_type.{kind}": u for kind, u in reward.utility_by_type.items()}
    for key, u in {"utility": reward.utility, **named}.items():
        key = f"reward.{key}"
        path, own, _ = u.name.rpartition(":")
        if own and not os.path.isfile(path):
            yield f"{key}.name", f"no such file: {path}"
        if u.name == "power" and not 0 < u.gamma <= 1:
            yield f"{key}.gamma", f"{u.gamma} is not allowed, must be in (0, 1] for power"
        if u.name == "negative_power" and u.gamma <= 0:
            yield f"{key}.gamma", f"{u.gamma} is not allowed, must be above 0 for negative_power"
        if u.name in ("log_sigmoid", "exponential") and u.sigma <= 0:
            yield f"{key}.sigma", f"{u.sigma} is not allowed, must be above 0 for {u.name}"
        for shape in ("a", "b") if u.name == "quantile" else ():
            if u[shape] <= 0:
                yield f"{key}.{shape}", f"{u[shape]} is not allowed, must be above 0 for quantile"
        if u.name in ("power", "negative_power", "log", "quantile") and u.epsilon <= 0:
            yield (
                f"{key}.epsilon",
                f"{u.epsilon} is not allowed, must be above 0 for {u.name} (infinite slope at 0)",
            )
        if u.name == "quantile" and u.epsilon > QUANTILE_EPSILON:
            yield (
                f"{key}.epsilon",
                f"{u.epsilon} is not allowed, must be at most {QUANTILE_EPSILON} for quantile, below its smallest gap",
            )
        if u.epsilon < 0:
            yield f"{key}.epsilon", f"{u.epsilon} is not allowed, must be at least 0"
        if reward.bounded == "no" and reward.loss == "utility" and not own and u.name not in UNBOUNDED:
            yield (
                "reward.bounded",
                f"no, but config.{key}.name={u.name} needs rewards in [0, 1]; use auto or yes",
            )


def _feedback_problems(reward: ConfigDict) -> Iterator[tuple[str, str]]:
    """Settings that would go unused, or could mean nothing, under the chosen loss."""
    ties = ("rao_kupper", "davidson")
    for key, default, losses in (
        ("top_k", 0, ("plackett_luce",)),
        ("tie", 0.5, ties),
        ("label_smoothing", 0.0, ("utility",)),
        ("margin", 0.0, ("utility",)),
        ("balance_utilities", False, ("utility",)),
    ):
        if reward[key] != default and reward.loss not in losses:
            yield f"reward.{key}", f"{reward[key]} would go unused: config.reward.loss is {reward.loss}"
        if reward[key] != default and not reward.weights.ranks:
            yield f"reward.{key}", f"{reward[key]} would go unused: config.reward.weights.ranks is 0"
    if reward.loss != "utility" and reward.utility_by_type:
        yield "reward.utility_by_type", f"would go unused: config.reward.loss is {reward.loss}"
    for key, default in (("low", 0.0), ("high", 1.0), ("huber", 0.0)):
        if reward.scores[key] != default and not reward.weights.scores:
            yield f"reward.scores.{key}", f"{reward.scores[key]} would go unused: config.reward.weights.scores is 0"
    if not any(reward.weights.values()):
        yield "reward.weights", "all 0: nothing would be trained on"
    if reward.scores.low >= reward.scores.high:
        yield "reward.scores.low", f"{reward.scores.low} is not below config.reward.scores.high={reward.scores.high}"


def _critique_problems(c: ConfigDict) -> Iterator[tuple[str, str]]:
    # No tokenizer makes more tokens of a text than it has bytes.
    separator = len(c.critique.separator.encode())
    longest = c.data.max_prompt + c.data.max_response + separator + c.critique.max_tokens
    if longest > c.model.max_positions:
        yield (
            "model.max_positions",
            f"{c.model.max_positions} is less than config.data.max_prompt + max_response + a separator of up to "
            f"{separator} + config.critique.max_tokens = {longest} tokens",
        )
    if c.reward.loss != "utility":
        yield "reward.loss", f"{c.reward.loss}, but the critique stage trains under a utility"
    if not c.reward.weights.ranks:
        yield "reward.weights.ranks", "0, but the critique stage trains on comparisons alone"
    if c.critique.source != "data" and c.critique.first_steps >= c.critique.steps:
        yield (
            "critique.first_steps",
            f"{c.critique.first_steps} leaves none of config.critique.steps={c.critique.steps} to the model's own "
            "critiques; lower it or set config.critique.source=data",
        )


# ------------------------------------------------------------------------------ JSON, both ways


def to_json(config: ConfigDict) -> str:
    """The config as indented JSON text, keys in alphabetical order."""
    return json.dumps(config.to_dict(), indent=2, sort_keys=True, allow_nan=False) + "\n"


def from_json(text: str) -> ConfigDict:
    """The config of ``to_json``'s text; absent keys take their defaults, unknown keys are refused."""
    try:
        values = json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(f"config: not JSON: {error}") from None
    if not isinstance(values, dict):
        raise UserError("config: not a JSON object")
    config = default_config()
    _merge(config, values, "")
    return config


def _merge(config: ConfigDict, values: dict[str, Any], prefix: str) -> None:
    for name in sorted(values):  # so that utility comes before utility_by_type, which copies it
        key, value = prefix + name, values[name]
        dotted = next((one for one in value if "." in one), "") if isinstance(value, dict) else ""
        if dotted:
            raise UserError(f"config.{key}: {dotted!r} has a dot, which no key may have")
        if key == "reward.utility_by_type" and isinstance(value, dict):
            for kind in value:
                config[name][kind] = copy.deepcopy(config.utility)
        if key == "reward.annotator_weights" and isinstance(value, dict):
            config[name].update(dict.fromkeys(value, 1.0))
        if name not in config:
            raise unknown_key(key)
        default = config[name]
        if isinstance(default, ConfigDict) and isinstance(value, dict):
            _merge(default, value, f"{key}.")
            continue
        if isinstance(default, tuple) and isinstance(value, list):
            value = tuple(value)
        if isinstance(default, float) and type(value) is int:
            value = float(value)
        if type(value) is not type(default):
            raise UserError(f"config.{key}: {value!r} is not {type_name(default)}")
        config[name] = value
