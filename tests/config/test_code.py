"""Code that a configuration names runs only where somebody names it besides."""

import pathlib

import pytest

from rlhf_jax.build.specs import settle_bounded, trained_bounded
from rlhf_jax.config import code_in, default_config, from_run, to_json, utility
from rlhf_jax.errors import UserError
from rlhf_jax.flags import parse

OWN = """from rlhf_jax.objectives.utilities import Utility
open(__file__ + ".ran", "w").close()
class Own(Utility):
    needs_bounded_rewards = {bounded}
    domain = (-float("inf"), float("inf"))
    def raw(self, x): return x
"""


def write(folder: pathlib.Path, *, bounded: bool) -> tuple[str, pathlib.Path]:
    """A utility of one's own, and the file that it makes when it is run."""
    path = folder / "own.py"
    path.write_text(OWN.format(bounded=bounded))
    return f"{path}:Own", folder / "own.py.ran"


def test_a_run_forgets_code_but_for_the_names_of_utilities() -> None:
    config = default_config()
    config.data.gold = "evil.py:gold"
    config.reward.utility.name = config.ppo.kl.divergence = config.dpo.divergence = "evil.py:Evil"
    config.ppo.kl.estimator, config.ppo.kl.alpha = "exact", 0.25
    named = {
        "data.gold": "evil.py:gold",
        **dict.fromkeys(("reward.utility.name", "ppo.kl.divergence", "dpo.divergence"), "evil.py:Evil"),
    }
    assert dict(code_in(config)) == named
    found, code = from_run(to_json(config))
    assert code == named
    assert dict(code_in(found)) == {"reward.utility.name": "evil.py:Evil"}
    assert found.ppo.kl == default_config().ppo.kl


def test_a_configuration_in_json_runs_code_that_the_command_line_names(tmp_path: pathlib.Path) -> None:
    name, ran = write(tmp_path, bounded=True)
    config = default_config()
    config.reward.utility = utility(name)
    config.reward.utility_by_type["open"] = utility(name)
    path = tmp_path / "config.json"
    path.write_text(to_json(config))
    words = [f"--config={path}", "--dry_run"]
    for named in ([], [f"--config.reward.utility.name={name}"]):
        with pytest.raises(
            UserError, match=r"^config\.reward\.utility.*\.name: .*own\.py:Own is code, and a configurat"
        ):
            parse([*words, *named])
    named = [f"--config.reward.utility{key}.name={name}" for key in ("", "_by_type.open")]
    assert parse([*words, *named]).config.reward.utility.name == name
    assert not ran.exists()


@pytest.mark.parametrize("bounded", [True, False])
def test_who_reads_a_run_need_not_run_its_utility(tmp_path: pathlib.Path, bounded: bool) -> None:
    name, ran = write(tmp_path, bounded=bounded)
    config = default_config()
    config.reward.utility = utility(name)
    with pytest.raises(UserError, match=r'own\.py:Own; .* is not run: write "yes" or "no"'):
        trained_bounded(config.reward)
    assert not ran.exists()
    settle_bounded(config)  # as the run itself does
    assert ran.exists()
    ran.unlink()
    assert config.reward.bounded == ("yes" if bounded else "no")
    assert trained_bounded(config.reward) == bounded
    assert not ran.exists()


def test_stages_that_would_not_agree_are_refused(tmp_path: pathlib.Path) -> None:
    config = default_config()
    config.stages = ("reward", "reward_common")
    config.reward.utility = utility("log_sigmoid")
    config.reward.utility_by_type["open"] = utility(write(tmp_path, bounded=True)[0])
    with pytest.raises(UserError, match=r"^config\.reward\.bounded: auto, but reward and reward_common would differ"):
        settle_bounded(config)
