"""Claims: one at a time, kept alive, taken over from the dead alone."""

import concurrent.futures
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from rlhf_jax import owner
from rlhf_jax.owner import gone, me
from rlhf_jax.sweeps import claims
from rlhf_jax.sweeps.claims import Claim, Lease, Watcher, take


@pytest.fixture
def sleeper() -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])


def owner_of(process: subprocess.Popen[bytes]) -> dict[str, object]:
    return {"machine": owner.machine(), "pid": process.pid, "born": owner.born(process.pid)}


def test_of_many_that_claim_at_once_one_does(tmp_path: pathlib.Path) -> None:
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: take(tmp_path, 1, {}), range(32)))
    assert [one for one in found if one] == [tmp_path / "claims" / "1.json"]
    assert take(tmp_path, 2, {"stage": "reward", "step": 3})
    assert [claim.number for claim in claims.claims(tmp_path)] == [1, 2]
    assert claims.claims(tmp_path)[1].content["at"] == {"stage": "reward", "step": 3}


def test_claims_are_in_the_order_of_their_numbers(tmp_path: pathlib.Path) -> None:
    for number in range(1, 12):
        take(tmp_path, number, {})
    assert [claim.number for claim in claims.claims(tmp_path)] == list(range(1, 12))


def test_a_process_is_gone_when_it_was_killed_even_before_anybody_asks_how_it_ended(
    sleeper: subprocess.Popen[bytes],
) -> None:
    its = owner_of(sleeper)
    assert not gone(its)
    assert not gone(me())
    sleeper.send_signal(signal.SIGKILL)
    for _ in range(100):
        if gone(its):
            break
        time.sleep(0.05)
    assert gone(its)  # a zombie: its parent has not asked yet
    sleeper.wait()
    assert gone(its)


def test_a_number_that_another_process_has_got_since_is_not_the_owner() -> None:
    assert gone({**me(), "born": "1"})


def test_of_other_machines_nothing_is_known() -> None:
    assert not gone({**me(), "machine": "another", "pid": 2**22 + 1})


def test_a_claim_is_free_when_given_up_gone_or_silent_for_longer_than_the_lease(tmp_path: pathlib.Path) -> None:
    now = 100.0
    watcher = Watcher(60, clock=lambda: now)
    path = take(tmp_path, 1, {})
    assert path is not None
    far = {**me(), "machine": "another"}
    path.write_text(json.dumps(far))
    os.utime(path, (1.0, 1.0))  # another host's clock may be decades behind

    def free() -> bool:
        return watcher.free(claims.claims(tmp_path)[-1])

    assert not free()  # seen for the first time
    now += 59
    assert not free()
    os.utime(path, (2.0, 2.0))  # a sign of life
    now += 2
    assert not free()
    now += 59
    assert not free()
    now += 2
    assert free()
    path.write_text(json.dumps({**far, "ended": 5.0}))
    assert free()
    assert Watcher(60).free(Claim(path, {**me(), "pid": 2**22 + 1}))


def test_a_claim_whose_writing_was_cut_off_is_waited_for_like_any_other(tmp_path: pathlib.Path) -> None:
    now = 0.0
    watcher = Watcher(60, clock=lambda: now)
    path = take(tmp_path, 1, {})
    assert path is not None
    path.write_text('{"machi')
    (claim,) = claims.claims(tmp_path)
    assert claim.content == {}
    assert not watcher.free(claim)
    now = 61.0
    assert watcher.free(claim)


def test_a_lease_gives_signs_of_life_and_then_gives_the_claim_up(tmp_path: pathlib.Path) -> None:
    path = take(tmp_path, 1, {})
    assert path is not None
    os.utime(path, (1.0, 1.0))
    with Lease(path, seconds=0.2):
        for _ in range(100):
            if path.stat().st_mtime != 1.0:
                break
            time.sleep(0.02)
        assert path.stat().st_mtime != 1.0
        assert "ended" not in json.loads(path.read_text())
    assert json.loads(path.read_text())["ended"] > 0


def test_an_owner_that_slept_ends_when_it_sees_that_another_took_over(tmp_path: pathlib.Path) -> None:
    path = take(tmp_path, 1, {})
    assert path is not None
    take(tmp_path, 2, {})
    told: list[bool] = []
    with Lease(path, seconds=0.08, lost=lambda: told.append(True)):
        for _ in range(100):
            if told:
                break
            time.sleep(0.02)
    assert told == [True]


def test_a_trial_that_was_removed_meanwhile_is_no_error(tmp_path: pathlib.Path) -> None:
    path = take(tmp_path, 1, {})
    assert path is not None
    with Lease(path, seconds=60):
        path.unlink()
    assert not Watcher(60).free(Claim(path, {}))
