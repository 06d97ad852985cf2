"""Which prompts and which texts people are asked about, by hand."""

import numpy as np

from rlhf_jax.evaluation.selection import choose_tasks

PROMPTS = ["sure", "unsure", "same", "split"]
TYPES = ["open", "", "open", "closed"]
TEXTS = [["a", "b", "c"], ["d", "e", "f"], ["g", "g", "g"], ["h", "i", "i"]]
# Members' rewards. "unsure": d and e are 0.1 apart, f far away. "split": the members contradict each other.
REWARDS = np.array(
    [
        [[9.0, 9.0], [0.0, 0.0], [-9.0, -9.0]],
        [[0.1, 0.1], [0.0, 0.0], [8.0, 8.0]],
        [[0.0, 0.0]] * 3,
        [[3.0, 0.0], [0.0, 3.0], [0.0, 3.0]],
    ]
)


def choose(kind, count=10, seed=0):
    return choose_tasks(kind, PROMPTS, TYPES, TEXTS, REWARDS, count=count, seed=seed)


def shown(one):
    return [one.task["data"][side] for side in ("answer1", "answer2")]


def test_pairs_come_least_certain_first():
    found = choose("pairwise")
    assert [one.task["data"]["prompt"] for one in found] == ["split", "unsure", "sure"]
    assert [sorted(shown(one)) for one in found[:2]] == [["h", "i"], ["d", "e"]]
    assert found[0].uncertainty == np.log(2)
    assert [one.task["data"].get("prompt_type") for one in found] == ["closed", None, "open"]
    assert [one.uncertainty for one in found] == sorted((one.uncertainty for one in found), reverse=True)
    assert [one.task["data"]["prompt"] for one in choose("pairwise", count=1)] == ["split"]


def test_rankings_hold_each_text_once_and_their_mean_uncertainty():
    found = {one.task["data"]["prompt"]: one for one in choose("ranking")}
    assert set(found) == {"sure", "unsure", "split"}
    assert sorted(item["body"] for item in found["split"].task["data"]["items"]) == ["h", "i"]
    assert found["sure"].uncertainty < 0.01 < found["unsure"].uncertainty < found["split"].uncertainty


def test_the_rewards_are_in_the_order_shown():
    for one in choose("pairwise", seed=3):
        place = PROMPTS.index(one.task["data"]["prompt"])
        wanted = [REWARDS[place, TEXTS[place].index(text)] for text in shown(one)]
        np.testing.assert_array_equal(one.rewards, wanted)


def test_sides_are_drawn_at_random_and_the_same_each_time():
    sides = [[shown(one) for one in choose("pairwise", seed=seed)] for seed in range(20)]
    assert sides == [[shown(one) for one in choose("pairwise", seed=seed)] for seed in range(20)]
    first = [tasks[0][0] for tasks in sides]
    assert 3 < first.count("h") < 17
