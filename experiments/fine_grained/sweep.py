"""The settings: what PPO is told of its answers, by seed."""

SEEDS = (0, 1, 2)

# Arm -> what its reward says of an answer. All are trained on the same responses, as many as each other.
ARMS = {
    "dense": "which phrase has which defect, at the end of the phrase",
    "dense_at_end": "the same rewards of the same model, summed at the end of the answer",
    "scores": "one reward, trained on the true quality of whole answers",
}

# Every PPO run starts from the SFT run, and those of dense_at_end follow the model of dense: these come first.
SETTINGS = {"fine_grained/sft": "the policy that all start from"} | {
    f"fine_grained/{arm}.{seed}": f"{text}; seed {seed}" for seed in SEEDS for arm, text in ARMS.items()
}
