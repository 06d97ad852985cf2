"""Many runs over a space of settings: their folder, their workers, what comes next, and what they say together."""
