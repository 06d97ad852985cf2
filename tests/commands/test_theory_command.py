"""``rlhf-jax theory``: one line of JSON and nothing else, a table, a picture, and errors of one line."""

import dataclasses
import json
import subprocess
import sys

import numpy as np
import pytest
from scipy.optimize import brentq

from rlhf_jax.commands.utility_words import PARAMETERS
from rlhf_jax.config import UTILITIES
from rlhf_jax.main import main
from rlhf_jax.objectives.utilities import FAMILY, Log
from rlhf_jax.theory.optimum import best_rewards


def printed(capsys, *words):
    main(["theory", *words])
    out, err = capsys.readouterr()
    assert err == ""
    return out


def refused(capsys, *words):
    with pytest.raises(SystemExit) as stopped:
        main(["theory", *words])
    out, err = capsys.readouterr()
    assert stopped.value.code == 2
    assert out == ""
    assert err.startswith("rlhf-jax: error: theory: ")
    assert err.count("\n") == 1
    return err


def test_every_utility_can_be_asked_for():
    assert set(PARAMETERS) == set(UTILITIES) == set(FAMILY)
    for name, parameters in PARAMETERS.items():
        fields = [field.name for field in dataclasses.fields(FAMILY[name])]
        assert list(parameters) == [key for key in fields if key not in ("epsilon", "extension")]


def test_json_is_all_that_is_printed(capsys):
    out = printed(capsys, "--utility=power:0.5", "--n=8", "--json")
    found = json.loads(out)
    assert list(found) == ["r", "objective", "kkt_residual"]
    assert out == json.dumps(found) + "\n"
    half = [0.0, 0.0111456555096, 0.0975172372893, 0.335322219032]
    np.testing.assert_allclose(found["r"], [1 - t for t in half] + half[::-1], atol=1e-11)
    assert found["objective"] == pytest.approx(18.686143933346, rel=1e-12)
    assert found["kkt_residual"] < 1e-13


def test_json_has_every_digit(capsys):
    found = json.loads(printed(capsys, "--utility", "log", "--n", "7", "--json"))
    assert found["r"] == best_rewards(Log(), 7).rewards.tolist()


@pytest.mark.parametrize(
    ("words", "ascending"),
    [
        (["--utility=log", "--eps=0.1"], (0, 0, 0.146304, 0.372788, 0.627212, 0.853696, 1, 1)),
        (["--utility=negative_power:1", "--eps=0.1"], (0, 0.089133, 0.241260, 0.412028)),
        (["--utility=negative_power:1", "--tangent=0.001"], (0, 0.120759353, 0.266560785, 0.421349350)),
        (["--utility=log_sigmoid:0.25"], (0, 0, 0.195167, 0.400041)),
        (["--utility=linear"], (0, 0, 0, 0, 1, 1, 1, 1)),
        (["--utility=log", "--tiers=2,3,3"], (0, 0, 0, 0.6, 0.6, 0.6, 1, 1)),
    ],
    ids=lambda part: " ".join(part) if isinstance(part, list) else "",
)
def test_forms_and_tiers(capsys, words, ascending):
    rewards = json.loads(printed(capsys, *words, "--json"))["r"]
    assert len(rewards) == 8
    np.testing.assert_allclose(rewards[::-1][: len(ascending)], ascending, atol=1e-6)


@pytest.mark.parametrize("eps", [0.03, 0.3])
def test_eps_is_the_shift_of_the_utility(capsys, eps):
    """Four rewards 1, r, 1 - r, 0 under log(x + eps): the pulls on r are 1 / (1 - r + eps) up and, by the other two
    below, down; where no r < 1 balances them it is 1.
    """

    def pull(r):
        return 1 / (1 - r + eps) - 1 / (2 * r - 1 + eps) - 1 / (r + eps)

    wanted = brentq(pull, 0.5, 1.0) if pull(1.0) > 0 else 1.0
    found = json.loads(printed(capsys, "--utility=log", "--n=4", f"--eps={eps}", "--json"))["r"]
    np.testing.assert_allclose(found, [1.0, wanted, 1 - wanted, 0.0], atol=1e-10)


def table(out):
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in out.splitlines() if line.startswith("│")]
    return [tuple(row) for row in cells]


def test_the_table_has_rank_reward_and_distance(capsys):
    """Under log, four rewards are the Gauss-Lobatto points: the inner two at 1/2 +- 1 / (2 sqrt 5)."""
    inner = 0.5 - 0.5 / np.sqrt(5)
    assert table(printed(capsys, "--utility=log", "--n=4")) == [
        ("1", "1.000000000000", "0"),
        ("2", f"{1 - inner:.12f}", f"{inner:.12g}"),
        ("3", f"{inner:.12f}", f"{inner:.12g}"),
        ("4", "0.000000000000", "0"),
    ]


def test_of_many_rewards_the_first_and_the_last_ten_are_shown(capsys):
    rows = table(printed(capsys, "--utility=log", "--n=30"))
    assert [row[0] for row in rows] == [*map(str, range(1, 11)), "...", *map(str, range(21, 31))]
    r = best_rewards(Log(), 30).rewards
    assert [row[1] for row in rows if row[0] != "..."] == [f"{value:.12f}" for value in [*r[:10], *r[-10:]]]


def test_a_class_of_ones_own(capsys, tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(
        "import jax.numpy as jnp\nfrom rlhf_jax.objectives.utilities import Utility\n\n\n"
        "class Root(Utility):\n    def raw(self, x):\n        return jnp.sqrt(x)\n\n\n"
        "class Broken(Utility):\n    def raw(self, x):\n        return x.nonsense\n"
    )
    found = json.loads(printed(capsys, f"--utility={path}:Root", "--n=5", "--json"))
    assert found["r"][1] == pytest.approx(1 - 0.0747557761932, abs=1e-11)
    assert "AttributeError" in refused(capsys, f"--utility={path}:Broken")
    assert "defines no class Rot" in refused(capsys, f"--utility={path}:Rot")


def test_a_class_of_ones_own_takes_its_parameters_as_the_built_in_ones_do(capsys, tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(
        "import dataclasses\nfrom rlhf_jax.objectives.utilities import Utility\n\n\n"
        "@dataclasses.dataclass(frozen=True)\nclass Root(Utility):\n    tau: float = 3.0\n    gamma: float = 0.9\n\n"
        "    def raw(self, x):\n        return x**self.gamma\n\n\n"
        "@dataclasses.dataclass(frozen=True)\nclass Divided(Utility):\n    a: float = 1.0\n    sigma: float = 1.0\n\n"
        "    def raw(self, x):\n        return x * (1 / (self.a - self.sigma))\n"
    )
    words = ("--n=5", "--json")
    own, power = (json.loads(printed(capsys, f"--utility={u}:0.5", *words)) for u in (f"{path}:Root", "power"))
    np.testing.assert_allclose(own["r"], power["r"], atol=1e-12)
    shown = printed(capsys, f"--utility={path}:Root:0.5", "--n=5")
    assert "(gamma=0.5)" in shown
    assert "of its fields only gamma, sigma, a, b can be set, not tau" in shown
    assert f"must be {path}:Root:GAMMA" in refused(capsys, f"--utility={path}:Root:0.5,1")
    assert "'half' is not a number" in refused(capsys, f"--utility={path}:Root:half")
    # In the order of the class, a before sigma: 1/(2 - 1) is a line, 1/(1 - 2) falls.
    assert "objective" in printed(capsys, f"--utility={path}:Divided:2,1")
    assert "does not increase" in refused(capsys, f"--utility={path}:Divided:1,2")
    broken = refused(capsys, f"--utility={path}:Divided")
    assert "ZeroDivisionError" in broken
    assert f"division by zero ({path}, line 20)" in broken


def test_the_table_says_what_the_law_is(capsys):
    out = printed(capsys, "--utility=exponential:0.5", "--n=40")
    assert "0.25 at 0 and at 1 each, uniform between" in out
    assert "kkt residual" in out
    assert "..." in out  # of 40, twenty are shown
    assert "W1 0.00" in out
    assert "Beta(0.5, 0.5)" in printed(capsys, "--utility=log", "--n=4")
    assert "free" in printed(capsys, "--utility=linear", "--n=3")
    assert "limit law: half at 0, half at 1; distance W1 0.0" in printed(capsys, "--utility=linear", "--n=4")
    assert "limit law" not in printed(capsys, "--utility=log", "--tiers=2,3,3")


@pytest.mark.parametrize(("name", "head"), [("a.png", b"\x89PNG"), ("a.svg", b"<?xml")])
def test_a_picture(capsys, tmp_path, name, head):
    out = printed(capsys, "--utility=log", "--n=12", "--json", f"--plot={tmp_path / name}")
    assert len(json.loads(out)["r"]) == 12
    assert (tmp_path / name).read_bytes().startswith(head)


def test_the_picture_has_the_rewards_at_their_ranks_and_the_law_from_its_upper_end(capsys, tmp_path, monkeypatch):
    figures = []
    monkeypatch.setattr("rlhf_jax.reports.style.to_png", lambda figure: figures.append(figure) or b"")
    printed(capsys, "--utility=log", "--n=12", "--json", f"--plot={tmp_path / 'a.png'}")
    law, dots = figures[0].axes[0].lines
    np.testing.assert_array_equal(dots.get_xdata(), np.arange(1, 13))
    np.testing.assert_array_equal(dots.get_ydata(), best_rewards(Log(), 12).rewards)
    # The arcsine law: the share u of the best lies above cos(pi u / 2)^2, and rank i is the middle of its share.
    share = (np.asarray(law.get_xdata()) - 0.5) / 12
    np.testing.assert_allclose(law.get_ydata(), np.cos(np.pi * share / 2) ** 2, atol=1e-12)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "--utility: missing"),
        (["--utility=powr:0.5"], "did you mean power?"),
        (["--utlity=log"], "did you mean --utility?"),
        (["log"], "log: no such option"),
        (["--utility=power:1.5"], "at most 1"),
        (["--utility=power:-1"], "above 0"),
        (["--utility=power:half"], "'half' is not a number"),
        (["--utility=log:1"], "must be log"),
        (["--utility=quantile:2"], "must be quantile:A,B"),
        (["--utility=missing.py:Mine"], "no such file"),
        (["--utility=log", "--n=0"], "theory: --n: 0 is not allowed, must be from 2 to 5000\n"),
        (["--utility=log", "--n=1"], "theory: --n: 1 is not allowed, must be from 2 to 5000\n"),
        (["--utility=log", "--n=1", "--tiers=1"], "theory: --n: 1 is not allowed, must be from 2 to 5000\n"),
        (["--utility=log", "--n=4.5"], "not a whole number"),
        (["--utility=log", "--n=5001"], "theory: --n: 5001 is not allowed, must be from 2 to 5000\n"),
        (["--utility=log", "--n=8", "--tiers=2,2"], "4 responses"),
        (["--utility=log", "--n=5000", "--tiers=1,1"], "2 responses, but --n=5000"),
        (["--utility=log", "--tiers=2,0"], "theory: --tiers: 0 is not allowed, must be from 1 to 5000\n"),
        (["--utility=log", "--tiers=3"], "theory: --tiers: 3 is one tier, and only different tiers are compared\n"),
        (["--utility=log", "--tiers=3000,2001"], "5001 responses, at most 5000"),
        (["--utility=log", "--eps=0"], "above 0"),
        (["--utility=log", "--eps=nan"], "above 0"),
        (["--utility=log", "--eps=0.1", "--tangent=0.1"], "give one of them"),
        (["--utility=log", "--plot=a.pdf"], "neither a .png nor a .svg"),
        (["--utility=log", "--plot=nowhere/a.png"], "no such folder"),
        (["--utility=log", "--json=yes"], "takes no value"),
        (["--utility"], "no value given"),
        (["--utility=power:0.9999", "--n=20"], "closer to 0 and 1 than float64"),
    ],
    ids=lambda part: " ".join(part) if isinstance(part, list) else "",
)
def test_mistakes_are_one_line(capsys, words, told):
    assert told in refused(capsys, *words)


def test_a_misspelt_command_is_told_its_neighbour(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["theroy", "--utility=log"])
    assert stopped.value.code == 2
    assert capsys.readouterr().err == "rlhf-jax: error: theroy: no such command; did you mean theory?\n"


def test_help(capsys):
    out = printed(capsys, "--help")
    assert all(f"--{name}" in out for name in ("utility", "n", "tiers", "eps", "tangent", "json", "plot"))
    with pytest.raises(SystemExit):
        main(["--help"])
    assert "rlhf-jax theory" in capsys.readouterr().out


def test_a_mistake_is_told_before_jax_is_loaded():
    code = (
        "import sys\nfrom rlhf_jax.main import main\n"
        "try:\n    main(['theory', '--utility=powr'])\n"
        "except SystemExit as stopped:\n    assert stopped.code == 2\n"
        "assert 'jax' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_reader_that_has_seen_enough_is_no_error() -> None:
    words = [sys.executable, "-m", "rlhf_jax", "theory", "--utility=log", "--n=400", "--json"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert (process.wait(), process.stderr.read()) == (0, b"")
