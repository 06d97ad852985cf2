"""One file, one algorithm: a pure loss and a pure step. ``optimizer`` and ``step`` are what they share."""
