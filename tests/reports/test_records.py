import numpy as np

from rlhf_jax.metrics import MetricWriter, write_rewards
from rlhf_jax.reports.headline import number, reward_table, sentences
from rlhf_jax.reports.records import read_run


def test_series_takes_the_last_value_of_a_step_and_sorts(tmp_path):
    with MetricWriter(tmp_path, tensorboard=False) as writer:
        for step, loss in [(2, 2.0), (1, 1.0), (2, 5.0)]:
            writer.write("sft", step, {"loss": loss})
        writer.write("ppo", 3, {"loss": 9.0})
    steps, values = read_run(tmp_path).series("sft", "loss")
    np.testing.assert_array_equal(steps, [1, 2])
    np.testing.assert_array_equal(values, [1.0, 5.0])


def test_stages_keep_the_order_in_which_they_ran(tmp_path):
    with MetricWriter(tmp_path, tensorboard=False) as writer:
        for stage in ("sft", "reward_b", "reward_a", "ppo"):
            writer.write(stage, 1, {"loss": 1.0})
    for stage in ("reward_a", "reward_b"):
        write_rewards(tmp_path, stage, 1, [{"list": 0, "rank": 0, "reward": 0.5}])
    run = read_run(tmp_path)
    assert run.stages == ["sft", "reward_b", "reward_a", "ppo"]
    assert list(run.rewards) == ["reward_b", "reward_a"]


def test_lists_of_unequal_length_are_padded_and_a_non_finite_reward_left_out(tmp_path):
    rows = [
        {"list": 7, "prompt_type": "open", "rank": 0, "reward": 0.9},
        {"list": 7, "prompt_type": "open", "rank": 1, "reward": 0.2},
        {"list": 7, "prompt_type": "open", "rank": 1, "reward": float("inf")},
        {"list": 9, "prompt_type": "open", "rank": 0, "reward": 0.4},
        {"list": 9, "prompt_type": "closed", "rank": 0, "reward": 1.0},
    ]
    write_rewards(tmp_path, "reward", 1, rows)
    lists = read_run(tmp_path).rewards["reward"]
    assert list(lists) == ["open", "closed"]
    np.testing.assert_array_equal(lists["open"].mask, [[True, True, False], [True, False, False]])
    np.testing.assert_allclose(np.sort(lists["open"].values), [0.2, 0.4, 0.9])


def test_the_newest_held_out_rewards_are_read(tmp_path):
    for step, reward in ((5, 0.1), (10, 0.2)):
        rows = [{"split": split, "list": 0, "prompt_type": "open", "rank": 0} for split in ("validation", "train")]
        write_rewards(tmp_path, "reward", step, [row | {"reward": reward + i} for i, row in enumerate(rows)])
    assert read_run(tmp_path).rewards["reward"]["open"].values.tolist() == [0.2]


def test_best_and_gold_rewards_are_read_where_they_are_known(tmp_path):
    rows = [{"list": 0, "prompt_type": "open", "rank": r, "reward": 0.5, "best": 1.0 - r, "gold": None} for r in (0, 1)]
    write_rewards(tmp_path, "reward", 1, [*rows, {"list": 1, "prompt_type": "open", "rank": 0, "reward": 0.5}])
    lists = read_run(tmp_path).rewards["reward"]["open"]
    np.testing.assert_array_equal(lists.best, [[1.0, 0.0], [np.nan, np.nan]])
    assert np.isnan(lists.gold).all()


def test_reward_table_by_hand(tmp_path):
    # one list, ranks 0 1 2 2: five pairs, of which only (1, last) is in the wrong order
    rows = [
        {"list": 0, "prompt_type": "open", "rank": rank, "reward": reward}
        for rank, reward in [(0, 0.95), (1, 0.3), (2, 0.05), (2, 0.5)]
    ]
    write_rewards(tmp_path, "reward", 1, rows)
    table = reward_table(read_run(tmp_path))
    row = dict(zip(table.columns, *table.rows, strict=True))
    assert (row["pairs"], row["accuracy"], row["mean reward"]) == ("5", "0.800", "0.450")
    assert (row["below 0.1"], row["above 0.9"]) == ("25 %", "25 %")


def test_sentences_say_what_is_known_and_nothing_else():
    assert sentences({"sft.gold.open": 0.5, "sft.loss": 1.0}) == []
    (sentence,) = sentences({"sft.gold.open": 0.5, "ppo.gold.open": 0.25})
    assert "from 0.50 after SFT to 0.25 (-0.25)" in sentence


def test_the_collapse_index_is_said_in_words():
    (sentence,) = sentences({"reward.pair_accuracy": 0.75, "reward.bayes.pair_accuracy": 0.8})
    assert sentence.endswith(
        " 75.0 % of the held-out pairs are put in the annotators' order; chance is 50 %, the best that can be expected "
        "80.0 %."
    )
    (sentence,) = sentences({"reward.collapse_index": 0.125})
    assert "collapse index 0.12" in sentence


def test_number_keeps_small_and_large_values_readable():
    shown = {
        0.0: "0.000",
        0.1234: "0.123",
        2e-5: "2e-05",
        40.0: "40",
        1400.0: "1,400",
        1.0: "1.000",
        -1234.56: "-1,234.6",
        3e9: "3e+09",
    }
    assert {value: number(value) for value in shown} == shown
