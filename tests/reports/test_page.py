import json
from html.parser import HTMLParser
from pathlib import Path

import pytest

from rlhf_jax.errors import UserError
from rlhf_jax.metrics import MetricWriter, write_optimum, write_rewards, write_samples, write_status
from rlhf_jax.reports import write_report

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


def test_a_full_run_has_every_section_and_a_png_of_each_figure(full_run):
    page = read(write_report(full_run))
    assert page.headings == [
        "Held-out figures",
        "Loss",
        "Reward model: accuracy",
        "Reward model: distribution",
        "Reward model: calibration, rank distance, length",
        "PPO",
        "Completions before and after",
        "This run",
    ]
    assert page.tags.count("svg") == 5
    pngs = sorted((full_run / "figures").iterdir())
    assert [path.name for path in pngs] == [
        "loss.png",
        "pair_accuracy.png",
        "ppo.png",
        "reward_model.png",
        "rewards.png",
    ]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in pngs)
    assert "goes from 0.47 after SFT to 0.85 (+0.38)" in page.text
    assert "95.8 % of the held-out pairs" in page.text
    assert "W₁(open, closed)" in page.text
    assert f"python -m rlhf_jax --config={full_run}/config.json" in page.text


def test_the_page_runs_no_script_and_asks_for_nothing(full_run):
    page = read(write_report(full_run))
    assert not {"script", "link", "img", "iframe", "object", "base"} & set(page.tags)
    links = [value for name, value in page.attributes if name in ("src", "href", "xlink:href")]
    assert all(link.startswith("#") for link in links)
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    html = (full_run / "report.html").read_text()
    assert "@import" not in html
    assert "url(http" not in html


def test_the_same_records_give_the_same_bytes(full_run):
    first = write_report(full_run).read_bytes()
    png = (full_run / "figures" / "ppo.png").read_bytes()
    assert write_report(full_run).read_bytes() == first
    assert (full_run / "figures" / "ppo.png").read_bytes() == png


def test_figures_do_not_touch_matplotlibs_settings(full_run):
    import matplotlib

    before = dict(matplotlib.rcParams)
    write_report(full_run)
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


def test_the_best_rewards_are_drawn_dashed_where_they_are_known(tmp_path, full_run):
    from rlhf_jax.reports.figures import rewards_figure
    from rlhf_jax.reports.records import read_run

    ranks = rewards_figure(read_run(collapsed_run(tmp_path / "a", (1.0, 1.0, 0.0)))).axes[1]
    dashed = [line for line in ranks.lines if line.get_linestyle() == "--"]
    assert [list(line.get_ydata()) for line in dashed] == [[1.0, 0.5, 0.0]] * 2
    assert not [line for line in rewards_figure(read_run(full_run)).axes[1].lines if line.get_linestyle() == "--"]


HOSTILE = "<script>alert('x')</script>\x1b[31mred\x1b[0m\u202e$x^{$ \" onload=\"y"


@pytest.fixture
def hostile_run(tmp_path):
    run = tmp_path / "run"
    with MetricWriter(run, tensorboard=False) as writer:
        row = {"loss": 1.0, "kl": 1.0, f"gold.{HOSTILE}": 0.5, f"validation.pair_accuracy.{HOSTILE}": 0.5}
        writer.write(HOSTILE.replace("/", ""), 1, row)
    sample = {"prompt": HOSTILE, "prompt_type": HOSTILE, "response": HOSTILE, "before": HOSTILE}
    write_samples(run, "ppo", 1, [sample])
    rows = [{"list": 0, "prompt_type": HOSTILE, "rank": rank, "reward": 0.5} for rank in range(2)]
    write_rewards(run, "reward", 1, rows)
    write_status(run, "failed", stage=HOSTILE, reason=HOSTILE)
    (run / "config.json").write_text(json.dumps({HOSTILE: HOSTILE}))
    (run / "env.json").write_text(json.dumps({HOSTILE: HOSTILE}))
    (run / "summary.json").write_text(json.dumps({HOSTILE + ".pair_accuracy": 0.5}))
    return run


def test_hostile_text_is_shown_as_text(hostile_run):
    path = write_report(hostile_run)
    page = read(path)
    assert "script" not in page.tags
    assert "onload" not in dict(page.attributes)
    assert "<script>alert('x')</script>" in page.text
    assert not {"\x1b", "\u202e"} & set(path.read_text(encoding="utf-8"))


def test_a_broken_record_is_named(tmp_path):
    (tmp_path / "metrics.jsonl").write_text("{}\n[1]\n")
    with pytest.raises(UserError, match=r"metrics\.jsonl:2: expected a JSON object"):
        write_report(tmp_path)
