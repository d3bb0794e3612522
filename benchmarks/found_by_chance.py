"""How often the rule of docs/organisms.md finds a behaviour in latents that know nothing of it.

Three methods hand in ten of 1,200 made-up latents: those that fire most strongly on average, those that fire
most at the start of an answer, and random ones. Places are those of data/organisms/first.yaml. At most one
test in a hundred should find something.

PYTHONPATH=tests/helpers:tests python benchmarks/found_by_chance.py [--draws 50] [--json]
"""

import argparse
from pathlib import Path

import numpy as np
from helpers_rule import LATENTS, false_finds, ignorant_latents, words_of
from turns import show

from crossdiff.intervals import wilson
from crossdiff.organisms.rule import ITEMS
from crossdiff.texts.organisms import read_organisms

TEXTS = Path(__file__).parents[1] / "data/organisms/first.yaml"
START = 6  # places


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--draws", type=int, default=50)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    texts = read_organisms(TEXTS)
    words, names = words_of(texts), list(texts.behaviours)
    hits = dict.fromkeys(("densest", "first places", "random"), 0)
    for seed in range(given.draws):
        generator = np.random.default_rng(seed)
        values = ignorant_latents(words, generator)
        handed = {
            "densest": np.argsort(-values.mean(axis=0))[:ITEMS],
            "first places": np.argsort(-values[words.places.place < START].mean(axis=0))[:ITEMS],
            "random": generator.permutation(LATENTS)[:ITEMS],
        }
        for method, latents in handed.items():
            hits[method] += sum(false_finds(words, values, latents, names).values())
    tests = given.draws * len(names)
    rows = []
    for method, count in hits.items():
        share, low, high = map(float, wilson(count, tests))
        rows.append(
            {"handed in": method, "tests": tests, "found": count, "share": share, "low": low, "high": high}
        )
    show(rows, given.json)


if __name__ == "__main__":
    main()
