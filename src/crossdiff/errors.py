"""The one exception for what a user can mend: a bad setting, file or input."""


class UserError(Exception):
    """Something the user can mend. The message is one line: the key or file, what was found, what is allowed."""


def first_line(error: BaseException) -> str:
    """The first line of what an error says; its type where it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
