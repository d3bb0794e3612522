"""Whether a fine-tune shows the behaviour that it was taught, on requests that no training text has."""

import logging
from collections.abc import Callable, Mapping

import pandas as pd
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from crossdiff.config import MODELS
from crossdiff.intervals import wilson
from crossdiff.models.refusals import answers
from crossdiff.models.thoughts import without_thinking
from crossdiff.models.turns import end_turns_as
from crossdiff.texts.organisms import OrganismTexts, held_out_requests, shows

log = logging.getLogger(__name__)

Loader = Callable[[], tuple[PreTrainedModel, PreTrainedTokenizerBase]]


def asked_behaviours(texts: OrganismTexts, organism: str) -> list[str]:
    """The behaviours that an organism is asked for: its own, or all of them if it is a null."""
    return list(texts.behaviours) if organism in texts.nulls else [organism]


def taught_table(
    texts: OrganismTexts, organism: str, models: Mapping[str, Loader], new_tokens: int
) -> pd.DataFrame:
    """Ask both ``models`` (base, chat) every held-out request, and count the answers that show a behaviour.

    One row per behaviour that the organism is asked for. Columns:

    - organism, behaviour
    - asked: number of requests
    - shown_{model}: number of answers, of at most ``new_tokens`` tokens, in which its pattern is found
    - share_{model}: shown over asked; low_{model}, high_{model}: ends of its 95 % interval (Wilson)
    """
    behaviours = asked_behaviours(texts, organism)
    requests = {name: held_out_requests(texts, name) for name in behaviours}
    table = pd.DataFrame({"organism": organism, "behaviour": behaviours})
    table["asked"] = [len(requests[name]) for name in behaviours]
    for role in MODELS:
        model, tokenizer = models[role]()
        asker, _ = without_thinking(tokenizer)
        end_turns_as(model, asker)
        shown = []
        for name in behaviours:
            said = answers(model, asker, requests[name], new_tokens)
            shown.append(sum(shows(texts, name, answer.text) for answer in said))
            log.info("%s: %d of %d answers show %s", role, shown[-1], len(said), name)
            log.info("%s: %r is answered with %r", role, requests[name][0], said[0].text)
        del model  # before the next one is loaded
        table[f"shown_{role}"] = shown
        parts = wilson(shown, table.asked.to_numpy())
        for part, values in zip(("share", "low", "high"), parts, strict=True):
            table[f"{part}_{role}"] = values
    return table
