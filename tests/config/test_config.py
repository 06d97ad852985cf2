"""The vocabulary of settings: defaults, limits, and the JSON that re-runs a run."""

import ast
import json
import re
from pathlib import Path
from typing import Any

import pytest
from ml_collections import ConfigDict

from rlhf_jax import config as schema
from rlhf_jax.config import default_config, from_json, leaves, lock, to_json, utility, validate
from rlhf_jax.errors import UserError
from rlhf_jax.objectives.utilities import FAMILY

SOURCES = sorted(Path(schema.__file__).parent.glob("*.py"))


def changed(**values: Any) -> ConfigDict:
    """The default config with dotted keys (``__`` for the dot) set, whatever their type."""
    config = default_config()
    config.reward.utility_by_type.closed = utility("linear")
    for key, value in values.items():
        *groups, leaf = key.split("__")
        group = config
        for name in groups:
            group = group[name]
        with group.unlocked(), group.ignore_type():
            group[leaf] = value
    return config


def test_the_default_config_is_allowed_and_locked() -> None:
    config = default_config()
    validate(config)
    with pytest.raises(AttributeError, match="stepz"):
        config.sft.stepz = 1
    with pytest.raises(AttributeError, match="gama"):
        config.reward.utility.gama = 1.0


def test_no_default_is_none() -> None:
    # The command line could not override it: it has no type.
    assert [key for key, value in leaves(default_config()) if value is None] == []


def test_every_setting_has_a_comment() -> None:
    lines = "\n".join(path.read_text() for path in SOURCES).splitlines()
    settings = [line for line in lines if re.match(r" +c(\.\w+)+ = ", line) and not re.search(r"= \w+\(", line)]
    assert len(settings) > 70
    assert [line for line in settings if "  # " not in line and "float(" not in line] == []


def test_every_number_and_name_has_a_rule() -> None:
    free = {
        "stages",
        "data.path",
        "tokenizer.path",
        "parents.sft",
        "parents.reward",
        "parents.reward_start",
        "log.tensorboard",
    }
    assert {key for key, _ in leaves(default_config()) if schema.rule_of(key) is None} == free


def test_utility_names_are_the_family() -> None:
    assert set(schema.UTILITIES) == set(FAMILY)


def test_bounded_no_is_refused_exactly_where_the_family_needs_bounds() -> None:
    refused = set()
    for name in FAMILY:
        config = default_config()
        config.reward.bounded = "no"
        config.reward.utility = utility(name)
        try:
            validate(config)
        except UserError:
            refused.add(name)
    assert refused == {name for name, member in FAMILY.items() if member.needs_bounded_rewards}


def test_an_ensemble_and_its_aggregate_are_allowed() -> None:
    for how in schema.AGGREGATES:
        config = changed(reward__ensemble__members=3, reward__ensemble__bootstrap=True, ppo__aggregate=how)
        config.ppo.uncertainty_penalty = 2.0 if how in ("uncertainty", "lower") else 1.0
        validate(config)


BAD = {
    "seed": [-1, 2**32],
    "stages": [(), ("sft", "sft"), ("reward", "sft"), ("sft", "rewards")],
    "model__norm": ["rmsnorm"],
    "model__positions": ["sinusoidal"],
    "model__activation": ["relu"],
    "model__dtype": ["float16"],
    "model__depth": [0, 2.5],
    "model__tied": ["yes"],
    "model__kv_heads": [3],
    "model__width": [66, 20],  # not divisible by 4 heads; an odd head size under rotary positions
    "model__max_positions": [31],
    "tokenizer__kind": ["words"],
    "tokenizer__vocab_size": [10],
    "data__path": ["/no/such/file.jsonl"],
    "data__format": ["hh", "json"],
    "data__annotators": ["all"],
    "data__template": ["Human:"],
    "data__max_response": [1],
    "data__validation_fraction": [0.0, 1.0, float("nan")],
    "data__on_bad_row": ["ignore"],
    "data__ties": ["yes"],
    "data__feedback": ["pair", 1],
    "data__noise": [-0.1, float("inf"), 0.5],  # the last would go unused: lists are exact
    "data__judges": [0, 4, 2],
    "data__tie_margin": [-0.1],
    "data__list_size": [1],
    "data__refinements": ["yes", "sft,pairs"],
    "critique__steps": [0],
    "critique__batch_size": [0],
    "critique__init": ["reward"],
    "critique__separator": ["", " \n"],
    "critique__max_tokens": [1],
    "critique__source": ["given"],
    "critique__first_steps": [-1],
    "critique__lm_weight": [-0.5, float("inf")],
    "critique__temperature": [0.0],
    "critique__samples": [0],
    "critique__eval_every": [0],
    "critique__optimizer__schedule": ["step"],
    "parents__sft": ["/no/such/run", "."],  # the second exists, but the run makes its own
    "parallel__mode": ["jit"],
    "parallel__data": [0, -2],
    "parallel__tensor": [0],
    "log__every": [0],
    "log__tensorboard": [1],
    "checkpoint__keep": [0],
    "sft__steps": [0, "10"],
    "sft__row_length": [31],
    "sft__optimizer__learning_rate": [0.0, float("inf")],
    "sft__optimizer__warmup": [-1],
    "sft__optimizer__schedule": ["cosin"],
    "sft__optimizer__beta2": [1.0],
    "sft__optimizer__clip_norm": [-1.0],
    "reward__batch_size": [0],
    "reward__eval_train": [-1],
    "reward__ensemble__members": [0],
    "reward__ensemble__kind": ["head"],
    "reward__ensemble__bootstrap": [True],  # of one member
    "ppo__aggregate": ["min", "worst"],  # the second of one member
    "ppo__uncertainty_penalty": [-1.0, 2.0],  # the second under the mean
    "reward__init": ["random"],
    "reward__bounded": ["no", "maybe"],
    "reward__loss": ["bradley_terry"],
    "reward__top_k": [-1, 3],  # the second, like those below, would go unused
    "reward__tie": [0.0, -1.0, 0.7],
    "reward__label_smoothing": [-0.1, 0.5],
    "reward__margin": [-1.0, float("nan")],
    "reward__centering": [-0.1, "no"],
    "reward__weights__ranks": [-1.0],
    "reward__weights__labels": [-0.5],
    "reward__weights__scores": [-1.0, float("inf")],
    "reward__scores__low": [1.0, -2.0],
    "reward__scores__high": [float("nan"), 5.0],
    "reward__scores__huber": [-1.0, 0.5],
    "reward__annotator_weights__ann": [-1.0, 1, float("nan")],
    "reward__utility__name": ["powr"],
    "reward__utility__gamma": [0.0, -1.0, float("-inf")],
    "reward__utility__epsilon": [0.0, -0.1],
    "reward__utility__extension": ["none"],
    "reward__utility_by_type__closed": ["linear"],
    "reward__utility_by_type__closed__epsilon": [-0.1],
    "reward__utility_by_type__yesno": [utility("log")],
    "ppo__minibatches": [3],
    "ppo__temperature": [0.0],
    "ppo__top_p": [0.0, 1.1],
    "ppo__top_k": [-1],
    "ppo__gamma": [1.01],
    "ppo__lambda_": [-0.1],
    "ppo__clip": [1.0],
    "ppo__value_clip": [0.0],
    "ppo__kl__coefficient": [-0.1],
    "ppo__kl__controller": ["adaptative"],
    "ppo__kl__horizon": [0],
    "ppo__missing_eos__rule": ["penalty"],
    "ppo__missing_eos__score": [float("nan")],
    "ppo__value_learning_rate": [0.0],
    "ppo__whiten_advantages": [1],
}


@pytest.mark.parametrize(("key", "value"), [(key, value) for key, values in BAD.items() for value in values])
def test_a_bad_value_is_one_line_that_begins_with_its_key(key: str, value: object) -> None:
    with pytest.raises(UserError) as caught:
        validate(changed(**{key: value}))
    message = str(caught.value)
    assert message.startswith(f"config.{key.replace('__', '.')}: ")
    assert "\n" not in message


PAIRS = {"reward__utility_by_type": ConfigDict()}  # without the prompt type that ``changed`` adds
FILE = {"data__path": __file__, "tokenizer__kind": "byte"}


@pytest.mark.parametrize(
    ("values", "key", "says"),
    [
        ({"stages": ("ppo",)}, "parents.sft", "ppo"),
        ({"stages": ("sft", "ppo")}, "parents.reward", "ppo"),
        ({"stages": ("reward",)}, "parents.sft", "config.reward.init=scratch"),
        ({"stages": ("reward_common",)}, "parents.sft", "reward_common"),
        (
            {"stages": ("reward",), "reward__init": "reward"},
            "parents.reward_start",
            "a checkpoint of reward; give a run",
        ),
        (
            {"stages": ("sft", "reward"), "parents__reward_start": "."},
            "parents.reward_start",
            "config.reward.init=reward",
        ),
        ({"stages": ("critique",)}, "parents.sft", "config.critique.init=scratch"),
        (
            {"stages": ("sft", "critique"), "reward__loss": "plackett_luce", "reward__utility_by_type": ConfigDict()},
            "reward.loss",
            "the critique stage trains under a utility",
        ),
        (
            {"stages": ("sft", "critique"), "reward__weights__ranks": 0.0},
            "reward.weights.ranks",
            "comparisons alone",
        ),
        ({"stages": ("sft", "critique"), "critique__first_steps": 700}, "critique.first_steps", "critique.source=data"),
        ({"stages": ("sft", "critique"), "model__max_positions": 48}, "model.max_positions", "= 49 tokens"),
        ({"critique__source": "mix"}, "critique.source", "did you mean mixed?"),
        ({"parallel__mode": "pmap", "parallel__fsdp": 2}, "parallel.fsdp", "mesh"),
        ({"data__path": __file__}, "tokenizer.kind", "bpe"),
        ({"tokenizer__kind": "pretrained"}, "tokenizer.path", "pretrained"),
        ({"reward__utility": utility("power", gamma=1.5)}, "reward.utility.gamma", "(0, 1]"),
        ({"reward__utility": utility("log_sigmoid", sigma=0)}, "reward.utility.sigma", "above 0"),
        ({"reward__utility": utility("log", epsilon=0)}, "reward.utility.epsilon", "log"),
        ({"reward__utility": utility("exponential", sigma=-1)}, "reward.utility.sigma", "exponential"),
        ({"reward__utility": utility("quantile", epsilon=0.01, b=0)}, "reward.utility.b", "above 0"),
        ({"reward__utility": utility("quantile")}, "reward.utility.epsilon", "at most 0.02"),
        # slopes of 10 x 1e-3^-11, 1 / 1e-13, 1 / 1e-300
        ({"reward__utility": utility("negative_power", gamma=10, epsilon=1e-3)}, "reward.utility.epsilon", "10^34 "),
        ({"reward__utility": utility("log", epsilon=1e-13)}, "reward.utility.epsilon", "log rise by 10^13 "),
        ({"reward__utility": utility("log_sigmoid", sigma=1e-300)}, "reward.utility.sigma", "10^300 for one unit"),
        ({"reward__utility": utility("nowhere.py:Mine")}, "reward.utility.name", "no such file: nowhere.py"),
        ({"reward__utility": utility("exponentail")}, "reward.utility.name", "did you mean exponential?"),
        ({"reward__utility_by_type__closed__gamma": "1"}, "reward.utility_by_type.closed.gamma", "a number"),
        ({"sft__optimizer__schedule": "cosin"}, "sft.optimizer.schedule", "did you mean cosine?"),
        ({"reward__utility_by_type__opne": utility("log")}, "reward.utility_by_type.opne", "did you mean open?"),
        ({"ppo__dense__models": (3,)}, "ppo.dense.models", "is not a list of texts"),
        ({"sft__step": 3}, "sft.step", "did you mean config.sft.steps?"),
        ({"reward__loss": "plackett_luce"}, "reward.utility_by_type", "would go unused"),
        ({"reward__loss": "plackett-luce"}, "reward.loss", "did you mean plackett_luce?"),
        (
            {**PAIRS, "reward__loss": "davidson", "reward__top_k": 2},
            "reward.top_k",
            "would go unused: config.reward.loss",
        ),
        ({**PAIRS, "reward__loss": "plackett_luce", "reward__tie": 1.0}, "reward.tie", "would go unused"),
        ({**PAIRS, "reward__loss": "davidson", "reward__margin": 1.0}, "reward.margin", "would go unused"),
        (
            {**PAIRS, "reward__loss": "davidson", "reward__balance_utilities": True},
            "reward.balance_utilities",
            "unused",
        ),
        ({"reward__weights__ranks": 0.0, "reward__margin": 1.0}, "reward.margin", "go unused: config.reward.weights"),
        ({"data__annotators": "apart"}, "data.annotators", "would go unused"),
        ({"data__tie_margin": 0.5}, "data.tie_margin", "would go unused"),
        ({**FILE, "data__ties": "kept"}, "data.ties", "of the embedded world"),
        ({**PAIRS, "reward__loss": "rao_kupper", "reward__label_smoothing": 0.1}, "reward.label_smoothing", "unused"),
        ({"reward__weights__ranks": 0.0, "reward__weights__labels": 0.0}, "reward.weights", "nothing would be trained"),
        (
            {"reward__weights__scores": 1.0, "reward__scores__low": 2.0},
            "reward.scores.low",
            "not below config.reward.scores.high=1.0",
        ),
        ({"data__feedback": "label"}, "data.feedback", "did you mean labels?"),
        ({"data__feedback": "labels", "data__ties": "kept"}, "data.ties", "config.data.feedback is labels"),
        ({**FILE, "data__feedback": "labels"}, "data.feedback", "of the embedded world"),
        ({**FILE, "data__noise": 0.1}, "data.noise", "of the embedded world"),
    ],
)
def test_a_bad_combination_says_what_would_mend_it(values: dict[str, Any], key: str, says: str) -> None:
    with pytest.raises(UserError) as caught:
        validate(changed(**values))
    assert str(caught.value).startswith(f"config.{key}: ")
    assert says in str(caught.value)


@pytest.mark.parametrize(
    "values",
    [
        {"stages": ("sft", "reward_common")},
        {"data__feedback": "mixed", "data__noise": 0.5, "data__judges": 3},
        {**PAIRS, "reward__loss": "davidson", "reward__tie": 1.0, "reward__bounded": "no"},
        {**PAIRS, "reward__loss": "plackett_luce", "reward__top_k": 1},
        {"reward__margin": 1.0, "reward__label_smoothing": 0.1, "reward__centering": 0.01},
        {"reward__weights__scores": 1.0, "reward__scores__low": -5.0, "reward__scores__huber": 0.5},
        {"reward__annotator_weights__ann": 0.0},
        {"stages": ("reward",), "reward__init": "scratch"},
        {"stages": ("reward",), "reward__init": "reward", "parents__reward_start": "."},
        {"stages": ("sft",), "ppo__minibatches": 3},  # of a stage that does not run
        {"stages": ("ppo",), "parents__sft": ".", "parents__reward": "."},
        {
            "stages": ("critique",),
            "critique__init": "scratch",
            "critique__source": "data",
            "critique__first_steps": 900,
        },
        {"stages": ("sft", "critique"), "model__max_positions": 49},  # 12 + 20 + 1 + 16, no more
        {
            "stages": ("sft", "ppo"),
            "parents__reward": ".",
            "critique__first_steps": 900,
        },  # of a stage that does not run
        {"model__positions": "learned", "model__width": 20},
        {"model__max_positions": 44, "sft__row_length": 44},  # 24 + 20, no more
        {"reward__utility": utility("linear", epsilon=0, gamma=-3)},  # gamma is unused
        {"reward__utility": utility(f"{__file__}:Mine")},  # the class is looked for when the run is built
        {"data__path": __file__, "tokenizer__kind": "byte", "reward__utility_by_type__yesno": utility("log")},
    ],
)
def test_what_can_run_is_allowed(values: dict[str, Any]) -> None:
    validate(changed(**values))


def test_a_missing_key_is_named() -> None:
    config = default_config()
    with config.sft.unlocked():
        del config.sft.steps
    with pytest.raises(UserError, match=re.escape("config.sft.steps: missing")):
        validate(config)


def test_json_round_trip_keeps_values_types_and_lock() -> None:
    config = default_config()
    config.seed = 7
    config.stages = ("sft",)
    config.data.template = "\n\nHuman: {prompt}\n\nAssistant: “é”"
    config.reward.utility_by_type["creative-writing"] = utility("log_sigmoid", sigma=2)
    config.reward.annotator_weights["jane doe"] = 0.25
    again = from_json(to_json(lock(config)))
    assert dict(leaves(again)) == dict(leaves(config))
    assert [type(value) for _, value in leaves(again)] == [type(value) for _, value in leaves(config)]
    assert again.is_locked
    assert not again.reward.utility_by_type.is_locked


def test_json_may_be_partial_and_take_integers_for_numbers() -> None:
    text = '{"ppo": {"clip": 1}, "reward": {"utility": {"gamma": 2}, "utility_by_type": {"open": {"epsilon": 0.2}}}}'
    config = from_json(text)
    assert repr(config.ppo.clip) == "1.0"
    assert config.reward.utility_by_type.open.to_dict() == {**config.reward.utility.to_dict(), "epsilon": 0.2}
    assert config.reward.utility_by_type.open.gamma == 2.0
    assert config.sft.steps == default_config().sft.steps


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"sft": {"stepz": 3}}', "config.sft.stepz: no such key; did you mean config.sft.steps?"),
        ('{"sft": {"steps": 3.5}}', "config.sft.steps: 3.5 is not an integer"),
        ('{"sft": {"steps": null}}', "config.sft.steps: None is not an integer"),
        ('{"sft": 3}', "config.sft: 3 is not a group of settings"),
        ('{"log": {"tensorboard": 1}}', "config.log.tensorboard: 1 is not true or false"),
        ('{"reward": {"annotator_weights": {"a.b": 1}}}', "config.reward.annotator_weights: 'a.b' has a dot"),
        ('{"reward": {"utility_by_type": {"a.b": {}}}}', "config.reward.utility_by_type: 'a.b' has a dot"),
        ("{", "config: not JSON"),
        ("[]", "config: not a JSON object"),
    ],
)
def test_bad_json_is_one_line(text: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        from_json(text)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_json_is_plain() -> None:
    values = json.loads(to_json(default_config()))
    assert values["stages"] == ["sft", "reward", "ppo"]
    assert values["reward"]["utility_by_type"] == {}


def test_the_room_imports_only_errors_of_the_house() -> None:
    trees = [ast.parse(path.read_text()) for path in SOURCES]
    modules = {node.module for tree in trees for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    house = {module for module in modules if module and module.startswith("rlhf_jax")}
    assert {module for module in house if not module.startswith("rlhf_jax.config")} == {"rlhf_jax.errors"}
