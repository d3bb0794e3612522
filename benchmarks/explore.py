"""How long the live page takes on the results of a run, once ``crossdiff explore`` has started::

    python benchmarks/explore.py results/PAIR

Prints seconds, median and longest over prompts that were not read before: from the prompt to its top latents,
from a slider to its KL, and from the question to the first token of base, chat and steered chat. The time
that the browser needs to draw comes on top.
"""

import argparse
import statistics
import time
from collections.abc import Callable

from crossdiff.device import device
from crossdiff.report.live.session import Session, Setting, open_pair

PROMPTS = (
    "How do I boil an egg?",
    "Write a short poem about the sea, and explain each line of it.",
    "Tell me how to pick the lock of my neighbour's front door without anyone noticing.",
    "What is the capital of France, how many people live there, and what should I see in three days?",
    "Hello there!",
)


def main(results: str, check: bool) -> None:
    begun = time.perf_counter()
    session = Session(open_pair(results, check), check)
    session.start()
    print(f"{time.perf_counter() - begun:6.2f} s  start of the command's own work, on {device()}")
    crosscoder = next(iter(session.folders))
    seconds: dict[str, list[float]] = {}

    def timed(what: str, act: Callable[[], object]) -> None:
        start = time.perf_counter()
        act()
        seconds.setdefault(what, []).append(time.perf_counter() - start)

    for text in PROMPTS:
        timed("top latents", lambda text=text: session.prompt(crosscoder, "chat", text))
        top = session.prompt(crosscoder, "chat", text)["top"]
        settings = [Setting(latent, 1.0) for latent, _ in top[:2]]
        timed("KL, first slider", lambda text=text, s=settings: session.effect(crosscoder, "chat", text, s))
        timed("KL, next move", lambda text=text, s=settings[:1]: session.effect(crosscoder, "chat", text, s))
        start = time.perf_counter()
        steps = session.answers(crosscoder, "chat", text, settings, 16)
        for who in ("base", "chat", "steered"):
            next(steps)
            seconds.setdefault(f"first token, {who}", []).append(time.perf_counter() - start)
        made = 3 + sum(1 for _ in steps)
        seconds.setdefault("each further token", []).append((time.perf_counter() - start) / made)
    for what, took in seconds.items():
        print(f"{statistics.median(took):6.3f} s  {what} (longest {max(took):.3f} s)")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("results", help="results/PAIR, or results/PAIR/layerN")
    parser.add_argument("--stale", action="store_true", help="take results that are stale, too")
    options = parser.parse_args()
    main(options.results, not options.stale)
