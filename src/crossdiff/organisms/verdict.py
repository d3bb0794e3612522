"""Whether an organism is what it is meant to be. Without torch."""

from collections.abc import Iterator

import pandas as pd

from crossdiff.errors import UserError
from crossdiff.texts.organisms import SHOWN_ABOVE, OrganismTexts


def check_taught(table: pd.DataFrame, texts: OrganismTexts, path: str) -> None:
    """Check that an organism is what it is meant to be.

    ``table`` is its ``taught.taught_table``, read from ``path``.

    A behaviour shows in a model if the whole interval of its share lies above SHOWN_ABOVE. An organism must
    show its behaviour, and more often than the base by their intervals. A null must show none. Raises
    UserError, with one line.
    """
    problems = list(_problems(table, texts))
    if problems:
        organism = table.organism[0]
        more = f", and {len(problems) - 1} more" if problems[1:] else ""
        raise UserError(
            f"organism {organism}: {problems[0]}{more}; see {path}; "
            f"change models.NAME.finetune (epochs, learning_rate, data), or leave the pair {organism} out"
        )


def _problems(table: pd.DataFrame, texts: OrganismTexts) -> Iterator[str]:
    for row in table.itertuples():
        found = f"{row.shown_chat} of {row.asked} held-out answers show {row.behaviour}"
        base = f"{row.shown_base} of the base's"
        if row.organism in texts.nulls:
            if row.low_chat > SHOWN_ABOVE:
                yield f"{found}, though it was taught nothing"
        elif row.low_chat <= SHOWN_ABOVE:
            yield f"its behaviour did not take: {found} ({base}), allowed: an interval above {SHOWN_ABOVE}"
        elif row.low_chat <= row.high_base:
            yield f"its base shows the behaviour too: {found}, and {base}"
