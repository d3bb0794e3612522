"""Where tokens stand in answers and in documents."""

import numpy as np

from crossdiff.texts.chats import CONTENT, NO_ROLE
from crossdiff.texts.formats import ROLES
from crossdiff.texts.shards import Shard


def answer_positions(shard: Shard) -> np.ndarray:
    """Place of each token among the words of its answer, from 0: (tokens,). It is -1 outside of answers.

    A window that begins within an answer (``long: windows``) shows no beginning of it: there it is -1, too.
    """
    assistant = ROLES.index("assistant")
    said = (shard.role == assistant) & (shard.template == CONTENT)
    before = np.maximum(np.arange(len(said)) - 1, 0)
    # A window's first token may be a copy of the one that starts every text.
    opened = (shard.position[before] > 0) | (shard.role[before] == assistant)
    return _in_runs(said, shard.position, (shard.position > 0) & opened)


def text_positions(shard: Shard) -> np.ndarray:
    """Place of each token among the words of its window of a document, from 0: (tokens,). -1 in chats.

    The token that starts every text is none of the words.
    """
    return _in_runs((shard.role == NO_ROLE) & (shard.template == CONTENT), shard.position, True)


def _in_runs(said: np.ndarray, position: np.ndarray, may_begin: np.ndarray | bool) -> np.ndarray:
    """Place of each token in its run of ``said`` (tokens,) within a sequence. -1 outside of runs.

    It is -1 in runs that begin where they may not, too.
    """
    begins = said & (~np.append(False, said[:-1]) | (position == 0))
    rows = np.arange(len(said))
    first = np.maximum.accumulate(np.where(begins, rows, 0))
    return np.where(said & np.broadcast_to(may_begin, said.shape)[first], rows - first, -1)


def predicted_answer_positions(shard: Shard) -> np.ndarray:
    """The same of the token that comes next, (tokens,). It is -1 at the end of a sequence."""
    following = np.append(answer_positions(shard)[1:], -1)
    return np.where(np.append(shard.position[1:], 0) == 0, -1, following)
