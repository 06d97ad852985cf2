"""Pure mathematics: arrays in, arrays out, one sequence or one prompt at a time; the caller vmaps."""
