"""A gold of one's own: any function of prompt and response in a file."""


def modest(prompt: str, response: str) -> float:
    """Three spices are best, and every word past ten costs a little."""
    words = response.split()
    return 1.0 - ((words.count("spice") - 3) / 3) ** 2 - 0.05 * max(len(words) - 10, 0)
