"""The one error a user is meant to read."""

USER_ERROR = 2  # the exit code of a program that ends with a UserError


class UserError(Exception):
    """Bad input from outside: a configuration, a file, a checkpoint that does not fit. The program ends with 2."""
