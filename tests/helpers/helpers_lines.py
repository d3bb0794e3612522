"""Errors of one line."""

from collections.abc import Callable

import pytest

from crossdiff.errors import UserError


def line_of(call: Callable[[], object]) -> str:
    """Give the one line of the UserError that ``call`` raises."""
    with pytest.raises(UserError) as caught:
        call()
    [line] = str(caught.value).splitlines()
    return line
