"""The error that every command line prints in one line."""


class UserError(Exception):
    """An error that a person can mend; the message names the value, what was expected and what to do."""
