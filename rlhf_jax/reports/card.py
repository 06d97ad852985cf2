"""The card of an exported model: what it is, how its texts are built, what it was trained on, how well it does."""

from collections.abc import Mapping
from typing import Any

import jinja2

from rlhf_jax.console import clean_text


def model_card(
    config: Mapping[str, Any], run: Mapping[str, Any], summary: Mapping[str, float], *, parameters: int
) -> str:
    """``README.md`` of an exported folder, in the form of model cards.

    ``config`` is the folder's ``config.json`` with its ``rlhf_jax`` section, ``run`` the run's configuration as plain
    values, ``summary`` the held-out figures of the run by dotted name.
    """
    about = config["rlhf_jax"]
    stage, reward = about["stage"], "bounded" in about
    figures = {name.removeprefix(f"{stage}."): v for name, v in summary.items() if name.startswith(f"{stage}.")}
    ended = figures.pop("steps", None)
    utilities = []
    if reward and about["loss"] == "utility":
        by_type = about["utility_by_type"]
        rest = "any other" if by_type else "any"
        utilities = [(_code(kind), _utility(by_type[kind])) for kind in sorted(by_type)]
        utilities.append((rest, _utility(about["utility"])))
    template = run["data"]["template"]
    return _template().render(
        architecture=config["architectures"][0],
        auto_class="AutoModelForSequenceClassification" if reward else "AutoModelForCausalLM",
        stage=stage,
        reward=reward,
        bounded=about.get("bounded"),
        version=about["rlhf_jax_version"],
        parameters=f"{parameters:,}",
        steps=about["steps"],
        unfinished=ended != about["steps"],
        total_steps=_total_steps(run[stage.removesuffix("_common")]),
        chat=run["data"].get("chat", False),
        template="as it stands" if template == "{prompt}" else f"put into {_code(template)}",
        max_prompt=run["data"]["max_prompt"],
        max_response=run["data"]["max_response"],
        learned_positions=config["model_type"] in ("gpt2", "gpt_neo"),
        loss=_code(str(about.get("loss"))),
        utilities=utilities,
        balanced=about.get("balance_utilities"),
        data=_data(about["data"]),
        compute_dtype=_code(about["compute_dtype"]),
        metrics=[(_code(name), f"{value:.4f}") for name, value in sorted(figures.items())],
    )


def _total_steps(section: Mapping[str, Any]) -> int:
    """The updates of a stage, or the iterations of one that trains on its own samples."""
    return section["iterations"] if "iterations" in section else section["steps"]


def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("rlhf_jax.reports", "."),
        autoescape=False,  # noqa: S701 Markdown, whose texts of the user are put between back ticks
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
    )
    return environment.get_template("card.md.j2")


def _code(text: str) -> str:
    """A text of the user's between back ticks, in one line and without what would end a cell or the ticks."""
    plain = " ".join(clean_text(text).replace("`", "'").replace("|", "\\|").split())
    return f"`{plain}`"


def _utility(settings: Mapping[str, Any]) -> str:
    return _code(", ".join(f"{name}={value}" for name, value in settings.items()))


def _data(data: Mapping[str, Any]) -> str:
    if data["source"] == "embedded world":
        asked = ", ".join(f"{key}={value}" for key, value in data.items() if key not in ("source", "version"))
        return f"the embedded world of rlhf_jax, version {data['version']} ({_code(asked)})"
    if data["sha256"] is None:
        return f"{_code(data['source'])}, whose bytes were not at hand when the model was exported"
    return f"{_code(data['source'])}, SHA-256 {data['sha256']} when the model was exported"
