"""Policy, reward model, value model and data of one run read texts in one way, or the run is refused."""

import pathlib
from collections.abc import Callable

import pytest
from ml_collections import ConfigDict

from rlhf_jax.build import inherit_model
from rlhf_jax.build.context import Context, checked_run, load_parent, made_by, make_executor, parents_tokenizer
from rlhf_jax.build.identity import stage_identity
from rlhf_jax.build.specs import decoder_spec
from rlhf_jax.checkpoints import Checkpoints
from rlhf_jax.config import default_config, to_json
from rlhf_jax.data.prepared import Fingerprint, check_tokenizer, tokenizer_sha256, write_prepared
from rlhf_jax.data.records import Record, Response
from rlhf_jax.data.tokenizers import Tokenizer, build_tokenizer, load_tokenizer, save_tokenizer, with_chat
from rlhf_jax.errors import UserError
from rlhf_jax.metrics import update_summary, write_status
from tests.data import chats
from tests.end_to_end import tiny
from tests.reliability import states
from tests.reliability.conftest import Tally

TEXTS = ["la la la lo lo lo"]  # what byte pairs are learned from


def run_at(folder: pathlib.Path, kind: str = "byte", template: str = "") -> pathlib.Path:
    """A run directory made by hand: a configuration and a tokenizer, with a chat template or none."""
    config = default_config()
    config.data.chat = bool(template)
    folder.mkdir(parents=True)
    if template:
        chats.backend("bytes", template).save_pretrained(str(folder / "tokenizer"))
    else:
        save_tokenizer(build_tokenizer(kind, 300, texts=TEXTS), folder / "tokenizer")
    (folder / "config.json").write_text(to_json(config))
    return folder


def child(*, chat: bool = False, **parents: pathlib.Path) -> ConfigDict:
    config = default_config()
    config.stages, config.data.chat = ("ppo",), chat
    config.parents.update({name: str(path) for name, path in parents.items()})
    return config


def context_at(workdir: pathlib.Path, config: ConfigDict) -> Context:
    tokenizer = load_tokenizer(workdir / "tokenizer")
    if config.data.chat:
        tokenizer = with_chat(tokenizer, str(workdir))
    return Context(config, workdir, make_executor(config.parallel), tiny.small_world("classic", "broken", 8), tokenizer)


def saved(context: Context, stage: str) -> None:
    with Checkpoints(context.workdir / "checkpoints" / stage, identity=stage_identity(context, stage)) as checkpoints:
        checkpoints.save(states.state(1), states.meta(1))


def tokenizers_of_policy_and_reward_model(tmp: pathlib.Path) -> None:
    parents_tokenizer(child(sft=run_at(tmp / "a"), reward=run_at(tmp / "b", "bpe")))


def templates_of_policy_and_reward_model(tmp: pathlib.Path) -> None:
    one, other = run_at(tmp / "a", template=chats.CHATML), run_at(tmp / "b", template=chats.HEADERS)
    parents_tokenizer(child(chat=True, sft=one, reward=other))


def dialogues_of_a_policy_that_read_none(tmp: pathlib.Path) -> None:
    inherit_model(child(chat=True, sft=run_at(tmp / "a"), reward=run_at(tmp / "b")))


def own_tokenizer_and_that_of_the_policy(tmp: pathlib.Path) -> None:
    """The run has kept another one, whose ids are as many."""
    policy = run_at(tmp / "a")
    saved(context_at(policy, child()), "sft")
    context = context_at(run_at(tmp / "own", "bpe"), child(sft=policy))
    load_parent(context, "sft", decoder_spec(context.config.model, 300))


def own_template_and_that_of_the_reward_model(tmp: pathlib.Path) -> None:
    judge = run_at(tmp / "a", template=chats.CHATML)
    saved(context_at(judge, child(chat=True)), "reward")
    context = context_at(run_at(tmp / "own", template=chats.HEADERS), child(chat=True, reward=judge))
    load_parent(context, "reward", decoder_spec(context.config.model, context.tokenizer.vocab_size))


def the_tokenizer_of_another_reward_model(tmp: pathlib.Path) -> None:
    """One of config.ppo.rewards.models."""
    checked_run(context_at(run_at(tmp / "own"), child()), run_at(tmp / "b", "bpe"), "config.ppo.rewards.models")


def a_tokenizer_changed_between_two_steps(tmp: pathlib.Path) -> None:
    """Of the same run, and with it what its value model goes on from."""
    own = run_at(tmp / "own")
    saved(context_at(own, child()), "ppo")
    save_tokenizer(build_tokenizer("bpe", 300, texts=TEXTS), own / "tokenizer")
    went_on(context_at(own, child()))


def a_template_changed_between_two_steps(tmp: pathlib.Path) -> None:
    own = run_at(tmp / "own", template=chats.CHATML)
    saved(context_at(own, child(chat=True)), "ppo")
    (own / "tokenizer" / "chat_template.jinja").write_text(chats.CHATML.replace("\\n", " "))
    went_on(context_at(own, child(chat=True)))


def went_on(context: Context) -> None:
    folder = context.workdir / "checkpoints" / "ppo"
    with Checkpoints(folder, identity=stage_identity(context, "ppo"), accept=()) as checkpoints:
        checkpoints.restore_newest(states.blank(states.state(1)))


def records_prepared_for_another_tokenizer(tmp: pathlib.Path) -> None:
    tokenizer: Tokenizer = build_tokenizer("byte")
    record = Record("1", "la", (Response("lo", rank=0), Response("la", rank=1)))
    counted = {"rows": 1, "rejected": 0, "duplicates": 0, "skipped": 0, "records": 1}
    mark = tokenizer_sha256(tokenizer)
    about = Fingerprint("x", "", "lists", "{prompt}", 0.0, "overall", **counted, tokenizer_sha256=mark)
    write_prepared(tmp / "prepared", [record], about)
    check_tokenizer(tmp / "prepared", tokenizer)  # of its own it takes them
    check_tokenizer(tmp / "prepared", build_tokenizer("bpe", 300, texts=TEXTS))


def a_parent_that_has_not_finished(tmp: pathlib.Path) -> None:
    """Not of a tokenizer: what it was made by has not come to its end."""
    parent = run_at(tmp / "a")
    write_status(parent, "interrupted", stage="sft", step=3)
    config = child(sft=parent, reward=parent)
    update_summary(parent, {"reward.steps": 3})
    inherit_model(config)


MISMATCHES: dict[Callable[[pathlib.Path], None], str] = {
    tokenizers_of_policy_and_reward_model: "hold different tokenizers",
    templates_of_policy_and_reward_model: "hold different chat templates",
    dialogues_of_a_policy_that_read_none: "config.data.chat: True, but ",
    own_tokenizer_and_that_of_the_policy: "of another run (old -> new): tokenizer: ",
    own_template_and_that_of_the_reward_model: "of another run (old -> new): tokenizer: ",
    the_tokenizer_of_another_reward_model: "was trained with another tokenizer",
    a_tokenizer_changed_between_two_steps: "of another run (old -> new): tokenizer: ",
    a_template_changed_between_two_steps: "of another run (old -> new): tokenizer: ",
    records_prepared_for_another_tokenizer: "was prepared for another tokenizer",
    a_parent_that_has_not_finished: "has not finished its stage sft; go on with it first",
}


@pytest.mark.reliability("R13", tries=len(MISMATCHES))
def test_what_reads_texts_in_another_way_is_refused(tally: Tally, tmp_path: pathlib.Path) -> None:
    """By one line that names who and what, before parameters are read into a model."""
    for number, (mismatch, said) in zip(tally.tries, MISMATCHES.items(), strict=True):
        with tally.one(mismatch.__name__):
            with pytest.raises(UserError) as error:
                mismatch(tmp_path / f"{number}")
            assert said in str(error.value)
            assert "\n" not in str(error.value)


def test_the_same_tokenizer_is_the_same_in_whatever_folder(tmp_path: pathlib.Path) -> None:
    """Saved, read and saved again, as a run does that takes over its parent's; with dialogues and without."""
    for template in ("", chats.CHATML):
        config = child(chat=bool(template))
        parent = run_at(tmp_path / f"parent{bool(template)}", template=template)
        own = tmp_path / f"own{bool(template)}"
        save_tokenizer(load_tokenizer(parent / "tokenizer"), own / "tokenizer")
        assert made_by(context_at(parent, config), "sft") == made_by(context_at(own, config), "sft")
