"""Cards on which the project was measured (data/cards)."""

import json
from functools import cache
from pathlib import Path

CARDS = Path(__file__).parents[3] / "data/cards"


@cache
def tested_architectures() -> frozenset[str]:
    """Architectures ("sm_90") of the cards on which ``make test-gpu`` passed."""
    records = [json.loads(path.read_text()) for path in sorted(CARDS.glob("*.json"))]
    return frozenset(record["architecture"] for record in records if record.get("tests", {}).get("passed"))
