"""Random models in folders of their own."""

import json
from pathlib import Path
from typing import Any

from conftest import ROOT

from crossdiff.config import RandomModel
from crossdiff.models.prepare import make_random
from crossdiff.texts.formats import ROLES

TEMPLATE = str(ROOT / "data/plain.jinja")
ASSISTANT = ROLES.index("assistant")


def random_model(folder: Path, layers: int = 2, d_model: int = 32, seed: int = 0) -> Path:
    make_random(RandomModel(layers=layers, d_model=d_model, chat_template=TEMPLATE, seed=seed), folder)
    return folder


def edit(path: Path, **settings: Any) -> None:
    """Change values of a JSON file."""
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))
