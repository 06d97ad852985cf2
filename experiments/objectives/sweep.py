"""The settings: every objective with its config, and PPO under every divergence at three strengths; by seed."""

SEEDS = (0, 1, 2)

# Objective -> its config file and argument, under configs/. All start from the SFT policy of their seed; those that
# need a reward model follow that of their seed.
OBJECTIVES = {
    "ppo": "ppo.py",
    "ppo_ziegler": "ppo_ziegler.py",
    "ppo_nplus": "ppo_nplus.py",
    "reinforce": "ppo.py:reinforce",
    "rloo": "ppo.py:rloo",
    "grpo": "ppo.py:grpo",
    "dr_grpo": "ppo.py:dr_grpo",
    "reinforce_pp": "ppo.py:reinforce_pp",
    "dpo": "dpo.py:dpo",
    "cdpo": "dpo.py:cdpo",
    "rdpo": "dpo.py:rdpo",
    "ipo": "dpo.py:ipo",
    "hinge": "dpo.py:hinge",
    "kto": "dpo.py:kto",
    "kto_unpaired": "dpo.py:kto_unpaired",
    "orpo": "dpo.py:orpo",
    "simpo": "dpo.py:simpo",
    "rpo": "dpo.py:rpo",
    "chi_po": "dpo.py:chi_po",
    "f_dpo_forward_kl": "dpo.py:f_dpo_forward_kl",
    "f_dpo_jensen_shannon": "dpo.py:f_dpo_jensen_shannon",
    "f_dpo_alpha": "dpo.py:f_dpo_alpha",
    "f_dpo_chi_po": "dpo.py:f_dpo_chi_po",
    "f_dpo_hellinger": "dpo.py:f_dpo_hellinger",
    "plackett_luce": "dpo.py:plackett_luce",
    "dpo_free": "dpo.py:dpo_free",
    "rdpo_free": "dpo.py:rdpo_free",
    "ipo_free": "dpo.py:ipo_free",
    "hinge_free": "dpo.py:hinge_free",
    "online_dpo": "online.py:dpo",
    "iterated_dpo": "online.py:iterated",
    "expert": "online.py:expert",
}

# Divergence -> f''(1): what makes two of them equally strong near the reference, where D_f is f''(1)/2 times the
# squared relative deviation. Total variation has a kink there; it is taken to be as strong as reverse KL.
CURVATURE = {
    "reverse_kl": 1.0,
    "forward_kl": 1.0,
    "jensen_shannon": 0.5,
    "alpha": 1.0,
    "chi_squared": 2.0,
    "half_chi_squared": 1.0,
    "chi_po": 2.0,
    "hellinger": 0.5,
    "total_variation": 1.0,
}
STRENGTHS = (0.02, 0.1, 0.5)  # coefficient x f''(1), reward per unit of divergence

# Parents come first: everything else starts from those of its seed.
SETTINGS = (
    {f"objectives/parents.{seed}": f"SFT policy and reward model; seed {seed}" for seed in SEEDS}
    | {f"objectives/{name}.{seed}": f"{config}; seed {seed}" for name, config in OBJECTIVES.items() for seed in SEEDS}
    | {
        f"objectives/{name}-{place}.{seed}": f"PPO, {name} at strength {strength}; seed {seed}"
        for name in CURVATURE
        for place, strength in enumerate(STRENGTHS)
        for seed in SEEDS
    }
)
