"""Evaluators: a reward model on held-out lists, a policy on held-out prompts. Host-side, over compiled functions."""
