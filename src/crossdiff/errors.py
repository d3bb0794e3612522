"""The one exception for what the user can correct: a bad setting, file or input."""


class UserError(Exception):
    """A problem that the user can correct.

    The message is one line: the key or file, what was found, what is allowed, what to do.
    """


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or the name of its type if the message is empty."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
