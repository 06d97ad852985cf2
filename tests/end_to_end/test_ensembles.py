"""A reward ensemble by the command line: trained, followed by PPO of another run, and chosen by in best-of-n."""

import json
import pathlib

import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.build.chat import Speaker, bucket
from rlhf_jax.commands.chat_session import Session, Talk
from rlhf_jax.config import from_json, to_json
from rlhf_jax.data import world
from rlhf_jax.data.choices import ChoiceFile
from rlhf_jax.data.examples import encode_response
from rlhf_jax.data.readers import read_file
from rlhf_jax.data.records import Message
from rlhf_jax.data.tokenizers import load_tokenizer
from rlhf_jax.errors import UserError
from rlhf_jax.generation import SamplingSpec
from rlhf_jax.generation.best_of_n import sample_scored
from rlhf_jax.main import main
from rlhf_jax.metrics import read_metrics, read_summary
from rlhf_jax.models import apply_reward_members
from tests.end_to_end import tiny

pytestmark = pytest.mark.usefixtures("one_device")

QUICK = (
    *tiny.SIZE,
    "--config.sft.steps=2",
    "--config.reward.steps=3",
    "--config.ppo.iterations=2",
    "--config.log.every=1",
    "--config.log.tensorboard=False",
)


@pytest.fixture(scope="module")
def parent(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """SFT and three whole reward models on resampled lists."""
    workdir = tmp_path_factory.mktemp("ensemble") / "parent"
    tiny.launch(
        *QUICK,
        f"--config={tiny.ROOT / 'configs' / 'quickstart.py'}",
        f"--workdir={workdir}",
        "--config.stages=sft,reward",
        "--config.reward.ensemble.members=3",
        "--config.reward.ensemble.bootstrap=True",
        report=False,
    )
    return workdir


def test_the_members_differ_and_their_spread_is_measured(parent: pathlib.Path) -> None:
    kernels = tiny.state_of(parent, "reward")
    head = next(value for name, value in kernels.items() if "params" in name and "head" in name)
    assert head.shape == (3, 16)
    assert len({row.tobytes() for row in head}) == 3
    summary = read_summary(parent)
    assert summary["reward.spread"] > 0
    assert 0 <= summary["reward.spread_auroc"] <= 1
    trained = [row["metrics"] for row in read_metrics(parent) if row["stage"] == "reward" and "loss" in row["metrics"]]
    assert all(row["spread"] > 0 for row in trained)


@pytest.mark.slow
def test_ppo_follows_the_ensemble_of_another_run(parent: pathlib.Path, tmp_path: pathlib.Path) -> None:
    found = {}
    for how in ("mean", "worst"):
        tiny.launch(
            *QUICK,
            f"--config={tiny.ROOT / 'configs' / 'ppo.py'}",
            f"--workdir={tmp_path / how}",
            f"--config.parents.sft={parent}",
            f"--config.parents.reward={parent}",
            f"--config.ppo.aggregate={how}",
            report=False,
        )
        found[how] = [row["metrics"] for row in read_metrics(tmp_path / how) if "reward.spread" in row["metrics"]]
    # The first rollout is the same; what it is scored by is not.
    mean, worst = found["mean"][0], found["worst"][0]
    assert mean["reward.spread"] == pytest.approx(worst["reward.spread"])
    assert worst["reward.mean"] < mean["reward.mean"] - 0.5 * mean["reward.spread"]


def test_an_aggregate_needs_an_ensemble(
    parent: pathlib.Path, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other"
    config = json.loads((parent / "config.json").read_text())
    config["reward"]["ensemble"] = {"members": 1, "kind": "models", "bootstrap": False}
    other.mkdir()
    (other / "config.json").write_text(json.dumps(config))
    line = tiny.refused(
        capsys,
        f"--config={tiny.ROOT / 'configs' / 'ppo.py'}",
        f"--workdir={tmp_path / 'run'}",
        f"--config.parents.sft={parent}",
        f"--config.parents.reward={other}",
        "--config.ppo.aggregate=worst",
    )
    assert "config.ppo.aggregate: worst would go unused: the reward model is no ensemble" in line


def best_of_n(capsys: pytest.CaptureFixture[str], *words: str) -> dict:
    """Its JSON, on the slice of the world that these tests read."""
    capsys.readouterr()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("rlhf_jax.build.best_of_n.load_data", tiny.load)
        main(["best-of-n", *words, "--json"])
    return json.loads(capsys.readouterr().out)


def test_best_of_n_from_the_command_line(parent: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = (str(parent), "--aggregate=lower", "--penalty=2", "--prompts=4", "--seed=3")
    found = best_of_n(capsys, *words, "--n=6")
    assert [row["n"] for row in found["by_n"]] == [1, 2, 4, 6]
    for one in found["prompts"]:
        members, scores = np.array(one["members"]), np.array(one["scores"])
        assert members.shape == (6, 3)
        np.testing.assert_allclose(scores, members.mean(axis=1) - 2 * members.std(axis=1), atol=1e-5)
        assert one["response"] == one["responses"][int(np.argmax(scores))]
        assert len(one["gold"]) == 6
    last = found["by_n"][-1]
    assert last["proxy"] == pytest.approx(np.mean([max(one["scores"]) for one in found["prompts"]]))
    assert found["by_n"][0]["gold"] == pytest.approx(np.mean([one["gold"] for one in found["prompts"]]))
    assert last["kl_bound"] == pytest.approx(np.log(6) - 5 / 6)
    assert found["by_n"][0]["kl"] == pytest.approx(0.0, abs=1e-12)
    assert 0 < last["kl"] <= last["kl_bound"]
    assert found == best_of_n(capsys, *words, "--n=6")
    # The first answers of a larger n are those of a smaller one.
    fewer = best_of_n(capsys, *words, "--n=2")
    for few, many in zip(fewer["prompts"], found["prompts"], strict=True):
        assert few["responses"] == many["responses"][:2]
        np.testing.assert_allclose(few["members"], many["members"][:2], atol=1e-6)


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (("--n=0",), "--n: '0' is not a whole number from 1"),
        ((), "--n: missing"),
        (("--n=4", "--aggregate=worse"), "did you mean worst?"),
        (("--n=4", "--penalty=2"), "would go unused"),
        (("--n=4", "--aggregate=lower", "--penalty=-1"), "--penalty: '-1' is not a number of at least 0"),
        (("--n=4", "--polcy=ppo"), "did you mean --policy?"),
        (("--n=4", "--prompts=100000"), "but the run held out"),
        (("--n=4", "--policy=ppo"), "no checkpoints in"),
    ],
)
def test_what_best_of_n_refuses(
    words: tuple[str, ...], wanted: str, parent: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("rlhf_jax.build.best_of_n.load_data", tiny.load)
        with pytest.raises(SystemExit):
            main(["best-of-n", str(parent), *words])
    line = capsys.readouterr().err
    assert line.startswith("rlhf-jax: error: ")
    assert wanted in line


def speaker(run: pathlib.Path, reward: str = "") -> Speaker:
    return Speaker(run, "sft", reward, SamplingSpec(temperature=1.0))


def beside(parent: pathlib.Path, here: pathlib.Path, *left_out: str, **data: int) -> pathlib.Path:
    """The same run with other limits, some of its checkpoints left out."""
    config = from_json((parent / "config.json").read_text())
    config.data.update(data)
    (here / "checkpoints").mkdir(parents=True)
    (here / "config.json").write_text(to_json(config))
    (here / "tokenizer").symlink_to(parent / "tokenizer")
    for stage in {"sft", "reward"} - set(left_out):
        (here / "checkpoints" / stage).symlink_to(parent / "checkpoints" / stage)
    return here


def test_chat_scores_by_every_member(parent: pathlib.Path, tmp_path: pathlib.Path) -> None:
    """Rewards against those of each answer by itself, unpadded; and the same by way of another run's name."""
    own = speaker(parent)
    found = own.answer(asked(5), 2, seed=1, draw=0)
    assert found.rewards.shape == (2, 3)
    config, tokenizer = from_json((parent / "config.json").read_text()), load_tokenizer(parent / "tokenizer")
    prompt = tokenizer.encode(asked(5)[0].content)
    for text, rewards in zip(found.texts, found.rewards, strict=True):
        ids = jnp.array([[*prompt, *encode_response(tokenizer, text, config.data.max_response)[0]]])
        alone = apply_reward_members(
            own._spec.reward, own._spec.ensemble, own._reward, ids, jnp.ones_like(ids, bool), bounded=True
        )
        np.testing.assert_allclose(rewards, alone[:, 0], atol=1e-5)
    again = speaker(parent, str(parent)).answer(asked(5), 2, seed=1, draw=0)
    assert again.texts == found.texts
    assert own.answer(asked(5), 2, seed=1, draw=1).texts != found.texts
    alone = speaker(beside(parent, tmp_path / "alone", "reward")).answer(asked(5), 2, seed=1, draw=0)
    assert alone.texts == found.texts
    assert alone.rewards.shape == (2, 0)
    with pytest.raises(UserError, match=r"no checkpoints in .*sft"):
        speaker(beside(parent, tmp_path / "empty", "sft"))
    with pytest.raises(UserError, match=r"chat: --reward: .* does not exist"):
        speaker(parent, str(tmp_path))


def asked(words: int) -> tuple[Message, ...]:
    return (Message("user", " ".join((world.vocabulary() * 2)[:words])),)


def test_chat_compiles_few_programs(
    parent: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert [bucket(length, 100) for length in (1, 16, 17, 64, 65, 100)] == [16, 16, 32, 64, 100, 100]
    traced = []
    monkeypatch.setattr("rlhf_jax.build.chat.sample_scored", lambda *words: traced.append(0) or sample_scored(*words))
    long = speaker(beside(parent, tmp_path / "long", max_prompt=64))
    found = {words: long.answer(asked(words), 2, seed=1, draw=0) for words in (3, 5, 16, 20, 31)}
    assert len(traced) == 2
    assert not any(one.cut for one in found.values())
    # Padded to 12 tokens or to 16: the same answers.
    short = speaker(parent)
    same = short.answer(asked(5), 2, seed=1, draw=0)
    assert same.texts == found[5].texts
    np.testing.assert_allclose(same.rewards, found[5].rewards, atol=1e-5)
    assert short.answer(asked(20), 2, seed=1, draw=0).cut


def test_what_was_judged_trains_a_reward_model(
    parent: pathlib.Path, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "labels.jsonl"
    with ChoiceFile(path) as file:
        session = Session(speaker(parent).answer, file, annotator="alex", model="m", seed=0, settings={})
        for number, choice in enumerate(("A", "B", "tie", "A", "B", "A")):
            _, said = session.choose(session.ask(Talk(), asked(3 + number)[0].content), choice)
            assert "3 members" in said
    found = read_file(path)
    assert (found.format, len(found.records)) == ("lists", 6)
    assert [record.responses[1].rank for record in found.records] == [1, 1, 0, 1, 1, 1]
    words = ("--config.stages=reward", "--config.reward.init=scratch", "--config.data.format=auto")
    main([f"--config={tiny.ROOT / 'configs' / 'lists_file.py'}", *words, f"--config.data.path={path}", "--dry_run"])
    assert "6 rows of format lists" in capsys.readouterr().out
