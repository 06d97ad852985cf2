"""What a utility asks for: its best rewards in float64, their limit law, and how far apart the two are."""
