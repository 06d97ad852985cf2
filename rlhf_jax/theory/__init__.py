"""Exact answers in float64: the rewards that a utility asks for, and the policies that a reward asks for."""
