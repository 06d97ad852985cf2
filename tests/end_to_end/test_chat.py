"""A run under a chat template by the command line, and what every command makes of it."""

import json
import pathlib

import pytest
import transformers

from rlhf_jax.build.chat import Speaker
from rlhf_jax.commands.chat_session import Session
from rlhf_jax.data.choices import ChoiceFile
from rlhf_jax.data.readers import read_file
from rlhf_jax.data.records import Message
from rlhf_jax.data.tokenizers import load_tokenizer
from rlhf_jax.generation import SamplingSpec
from rlhf_jax.main import main
from rlhf_jax.metrics import read_jsonl, read_summary
from tests.build.test_chat import folder, rows
from tests.end_to_end import tiny

pytestmark = pytest.mark.slow
CHAT = (
    "--config.data.chat=True",
    "--config.data.max_prompt=80",
    "--config.data.max_response=16",
    "--config.data.validation_fraction=0.3",
    "--config.tokenizer.kind=pretrained",
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    here = tmp_path_factory.mktemp("chat")
    path = folder(here / "tokenizer")
    data = rows(here / "rows.jsonl")
    # Each prompt is answered in two ways, so that no policy is of one mind.
    data.write_text(data.read_text() + data.read_text().replace("chosen answer", "chosen reply"))
    main(["prepare", str(data), f"--out={here / 'ready'}", f"--tokenizer={path}", "--chat"])
    tiny.launch(
        f"--config={tiny.ROOT / 'configs' / 'hh_file.py'}",
        f"--workdir={here / 'run'}",
        *tiny.SIZE,
        *CHAT,
        f"--config.tokenizer.path={path}",
        f"--config.data.path={here / 'ready'}",
        "--config.data.format=auto",
        "--config.stages=sft,reward,ppo",
        "--config.sft.steps=200",
        "--config.sft.optimizer.learning_rate=0.02",
        "--config.sft.row_length=128",
        "--config.reward.steps=2",
        "--config.ppo.iterations=2",
        "--config.log.every=20",
    )
    return here / "run"


def test_the_policy_learns_to_end_its_turn(run: pathlib.Path) -> None:
    answers = [row["response"] for row in read_jsonl(run / "samples" / "sft" / "200.jsonl")]
    right = [answer for answer in answers if answer in ("chosen answer", "chosen reply")]
    assert len(set(right)) == 2
    assert len(right) >= 0.8 * len(answers)  # they are drawn, not the likeliest
    assert read_summary(run)["ppo.eos_fraction"] > 0.5
    assert not any("<|im" in answer for answer in answers)


def test_every_command_reads_the_run(
    run: pathlib.Path, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["evaluate", str(run), f"--data={run.parent / 'rows.jsonl'}", "--out=" + str(tmp_path / "evaluation")])
    capsys.readouterr()
    main(["best-of-n", str(run), "--n=2", "--prompts=3", "--policy=sft", "--json"])
    assert json.loads(capsys.readouterr().out)
    main(["labels", "to-labelstudio", str(run), "--responses=4", "--policy=ppo", f"--out={tmp_path / 'labels'}"])
    tasks = json.loads((tmp_path / "labels" / "tasks.json").read_text())
    assert all(task["data"]["prompt_messages"][0] == {"role": "system", "content": "hush"} for task in tasks)


def test_a_dialogue_is_talked_about_by_the_template(run: pathlib.Path, tmp_path: pathlib.Path) -> None:
    (tmp_path / "prompts.jsonl").write_text(json.dumps({"prompt": "a question"}) + "\n")
    for stage in ("sft", "ppo"):
        speaker = Speaker(run, stage, "", SamplingSpec(temperature=1.0))
        assert speaker.in_chat
        (question,) = speaker.prompts(str(tmp_path / "prompts.jsonl"))
        with ChoiceFile(tmp_path / f"{stage}.jsonl") as file:
            session = Session(speaker.answer, file, annotator="", model=stage, seed=0, settings={})
            talk, _ = session.choose(session.ask_turns((Message("system", "hush"), *question)), "A")
            session.choose(session.ask(talk, "and another", go_on=True), "B")
        records = read_file(file.path, chat=speaker._context.tokenizer.chat).records
        assert {one.text for record in records for one in record.responses} <= {"chosen answer", "chosen reply"}
        assert [len(record.messages) for record in records] == [2, 4]


@pytest.mark.parametrize("stage", ["sft", "reward"])
def test_an_export_keeps_the_template_and_what_ends_a_turn(
    run: pathlib.Path, tmp_path: pathlib.Path, stage: str
) -> None:
    main(["export", str(run), f"--stage={stage}", f"--out={tmp_path / 'out'}"])
    back = transformers.AutoTokenizer.from_pretrained(str(tmp_path / "out"))
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert back.eos_token == "<|im_end|>"
    assert config["eos_token_id"] == back.eos_token_id
    own = load_tokenizer(run / "tokenizer").backend
    asked = [{"role": "system", "content": "hush"}, {"role": "user", "content": "ask 1"}]
    how = {"add_generation_prompt": True, "return_dict": False}
    assert back.apply_chat_template(asked, **how) == own.apply_chat_template(asked, **how)
    card = (tmp_path / "out" / "README.md").read_text()
    assert "apply_chat_template(turns, add_generation_prompt=True" in card
    assert "There is no chat template" not in card


def test_a_run_without_the_template_refuses_the_prepared_folder(
    run: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = tiny.refused(
        capsys,
        f"--config={tiny.ROOT / 'configs' / 'hh_file.py'}",
        f"--workdir={run.parent / 'other'}",
        f"--config.data.path={run.parent / 'ready'}",
        "--config.data.format=auto",
        *CHAT[1:],
        f"--config.tokenizer.path={run.parent / 'tokenizer'}",
        "--config.sft.row_length=128",
    )
    assert "data.chat: " in line
    assert "was prepared for the chat template of sha256" in line
