"""The error that command lines print in one line."""


class UserError(Exception):
    """An error that the user can fix; the message names the value, what was expected and what to do."""
