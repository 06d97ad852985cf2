import base64
import hashlib
import json
import re
import shlex
from html.parser import HTMLParser
from pathlib import Path

import pytest

from rlhf_jax.errors import UserError
from rlhf_jax.metrics import MetricWriter, update_summary, write_optimum, write_rewards, write_samples
from rlhf_jax.reports import write_report
from rlhf_jax.reports.records import read_run
from rlhf_jax.reports.run_page import commands

VOID = {"meta", "br", "hr", "img", "link", "input"}


class Page(HTMLParser):
    """Collects tags, attributes and text, and holds that every tag is closed in turn."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.headings: list[str] = []
        self.text = ""
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data
        if self.open and self.open[-1] == "h2":
            self.headings.append(data)


def read(path: Path) -> Page:
    return Page(path.read_text(encoding="utf-8"))


def test_a_full_run_has_every_section_and_twins_of_each_figure(full_run):
    page = read(write_report(full_run))
    assert page.headings == [
        "Held-out figures",
        "Loss",
        "Reward model: accuracy",
        "Reward model: distribution",
        "Reward model: calibration, rank distance, length",
        "Policy",
        "Reward against distance",
        "Completions",
        "This run",
    ]
    names = ("loss", "pair_accuracy", "ppo", "frontier", "reward_model", "rewards")
    found = {path.name for path in (full_run / "report" / "figures").iterdir()}
    assert found == {f"{name}.{form}" for name in names for form in ("png", "pdf")}
    assert "goes from 0.47 after SFT to 0.85 (+0.38)" in page.text
    assert "95.8 % of the held-out pairs" in page.text
    assert "W₁(open, closed)" in page.text
    assert f"python -m rlhf_jax --config={full_run}/config.json" in page.text


def test_the_page_loads_the_script_beside_it_and_nothing_else(full_run):
    path = write_report(full_run)
    page = read(path)
    assert not {"link", "iframe", "object", "base", "form"} & set(page.tags)
    loaded = {value for name, value in page.attributes if name in ("src", "xlink:href", "srcset", "data")}
    assert {value for value in loaded if not value.startswith("figures/")} == {"plotly.min.js"}
    assert all((path.parent / value).is_file() for value in loaded)
    links = {value for name, value in page.attributes if name == "href" and not value.startswith("#")}
    assert all((path.parent / link).is_file() for link in links)
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    html = path.read_text()
    assert "@import" not in html
    assert "url(" not in html


def test_the_policy_allows_the_one_script_of_the_page(full_run):
    """Of the inline scripts only the one whose hash stands in the policy is run."""
    html = write_report(full_run).read_text()
    (policy,) = [value for name, value in Page(html).attributes if value.startswith("default-src")]
    (script,) = re.findall(r"<script>(.*?)</script>", html, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert policy.split("; ")[:2] == ["default-src 'none'", f"script-src 'self' file: 'sha256-{digest}'"]
    assert "connect-src" not in policy


def test_the_same_records_give_the_same_bytes(small_run, twins):
    def written():
        folder = write_report(small_run).parent
        return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}

    first = written()
    assert first == written()
    begins = {"index.html": b"<!DOCTYPE", "loss.png": b"\x89PNG", "loss.pdf": b"%PDF", "plotly.min.js": b"/**"}
    assert {path.name for path in first} == begins.keys()
    assert all(data.startswith(begins[path.name]) for path, data in first.items())


def test_figures_of_an_earlier_page_are_taken_away(full_run):
    figures = write_report(full_run).parent / "figures"
    (full_run / "rewards" / "reward.jsonl").unlink()
    (full_run / "rewards" / "reward_common.jsonl").unlink()
    (figures / "mine.png").touch()
    write_report(full_run)
    assert (figures / "mine.png").exists()  # what no page has written is not taken
    assert not (figures / "rewards.png").exists()
    assert (figures / "loss.pdf").exists()


def test_figures_do_not_touch_matplotlibs_settings(small_run, twins):
    import matplotlib

    before = dict(matplotlib.rcParams)
    write_report(small_run)
    assert dict(matplotlib.rcParams) == before


def test_a_run_of_only_sft_gives_a_page(tmp_path):
    with MetricWriter(tmp_path, tensorboard=False) as writer:
        writer.write("sft", 1, {"loss": 2.0})
        writer.write("sft", 2, {"loss": float("nan"), "validation.loss": 1.9})
    write_samples(tmp_path, "sft", 2, [{"prompt": "hello", "response": "world", "proxy": None, "gold": 0.5}])
    page = read(write_report(tmp_path))
    assert page.headings == ["Loss", "Completions", "This run"]
    assert "world" in page.text


def test_an_empty_directory_gives_a_page(tmp_path):
    assert read(write_report(tmp_path)).headings == ["This run"]


def test_rewards_of_unknown_prompt_type_and_any_range(tmp_path):
    rows = [{"list": 1, "prompt_type": "", "rank": rank, "reward": 3.0 - 2 * rank} for rank in range(4)]
    write_rewards(tmp_path, "reward", 1, rows)
    page = read(write_report(tmp_path))
    assert "all prompts" in page.text
    assert "W₁(" not in page.text


def collapsed_run(path, closed, *, wanted=0.2):
    """Ten lists a type, the open ones even; the run's record says how far apart the types should lie."""
    rewards = {"open": (1.0, 0.5, 0.0), "closed": closed}
    rows = [
        {"list": i, "prompt_type": kind, "rank": rank, "reward": reward, "best": 1.0 - 0.5 * rank}
        for i in range(10)
        for kind in rewards
        for rank, reward in enumerate(rewards[kind])
    ]
    write_rewards(path, "reward_common", 1, rows)
    apart = {"closed": {"apart": {"open": wanted}}, "open": {"apart": {"closed": wanted}}}
    write_optimum(path, "reward_common", apart)
    return path


def test_the_page_warns_of_types_that_should_differ_and_coincide(tmp_path):
    warning = "Warning: reward_common: closed and open: one reward distribution (W1 0.000, expected 0.200"
    assert warning in read(write_report(collapsed_run(tmp_path / "a", (1.0, 0.5, 0.0)))).text
    assert "Warning" not in read(write_report(collapsed_run(tmp_path / "b", (1.0, 1.0, 0.0)))).text
    assert "Warning" not in read(write_report(collapsed_run(tmp_path / "c", (1.0, 0.5, 0.0), wanted=0.0))).text


def test_the_index_is_said_with_the_distances_that_it_is_made_of(tmp_path):
    """By hand: (1, 1, 0) and (1, 0.5, 0) lie 1/6 apart."""
    path = collapsed_run(tmp_path / "a", (1.0, 1.0, 0.0), wanted=0.05)
    update_summary(path, {"reward_common.collapse_index": 0.0})
    measured = (
        "(closed and open: W1 0.167, expected 0.050 by their utilities, 3.3 times as far apart as they should lie)"
    )
    assert f"at 0 they lie at least as far apart as they should {measured}." in read(write_report(path)).text
    path = collapsed_run(tmp_path / "b", (1.0, 1.0, 0.0), wanted=0.15)
    update_summary(path, {"reward_common.collapse_index": 0.0})
    assert "(closed and open: W1 0.167, expected 0.150 by their utilities)." in read(write_report(path)).text


def test_hostile_text_is_shown_as_text(hostile_run):
    path = write_report(hostile_run)
    page = read(path)
    html = path.read_text(encoding="utf-8")
    # Two scripts to run, and the data of figures, none of which ends before its own end.
    data = re.findall(r'<script type="application/json" id="[a-z_]+-\d+">(.*?)</script>', html, re.DOTALL)
    assert page.tags.count("script") == len(data) + 2
    assert all(isinstance(json.loads(text), dict) for text in data)
    assert not any("<" in text for text in data)
    assert "onload" not in dict(page.attributes)
    assert "<script>alert('x')</script>" in page.text
    assert "x" * 9_900 + "… (2," in page.text  # cut after 10,000 characters, and said so
    assert not {"\x00", "\x1b", "\u202e", "\ud800"} & set(html)


def test_a_broken_record_is_named(tmp_path):
    (tmp_path / "metrics.jsonl").write_text("{}\n[1]\n")
    with pytest.raises(UserError, match=r"metrics\.jsonl:2: expected a JSON object"):
        write_report(tmp_path)


def test_what_is_to_be_copied_into_a_shell_is_one_command_a_line(tmp_path):
    """Whatever the records say: a path with a line end, a version with a command behind it."""
    run = tmp_path / "a run; touch bad"
    run.mkdir()
    config = {"parents": {"sft": "runs/sft\ntouch bad", "reward": ""}}
    (run / "config.json").write_text(json.dumps(config))
    (run / "env.json").write_text(json.dumps({"jax": "0.10.2; touch bad\ntouch worse", "numpy": "2.4.6"}))
    install, parent, again = commands(read_run(run))
    assert shlex.split(install) == [
        "python",
        "-m",
        "pip",
        "install",
        "jax==0.10.2; touch bad\ntouch worse",
        "numpy==2.4.6",
    ]
    assert parent == "# needs runs/sft touch bad (config.parents.sft)"
    assert shlex.split(again)[3:] == [f"--config={run}/config.json", f"--workdir={run}-again"]
