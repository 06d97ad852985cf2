"""The one error a user is meant to read."""


class UserError(Exception):
    """Bad input from outside: a configuration, a file, a checkpoint that does not fit. The program ends with 2."""
