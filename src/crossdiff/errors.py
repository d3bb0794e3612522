"""The one exception for what a user can mend: a bad setting, file or input."""


class UserError(Exception):
    """Something the user can mend. The message is one line: the key or file, what was found, what is allowed."""
