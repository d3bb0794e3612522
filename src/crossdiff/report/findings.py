"""The page's first screen: what the run found, in a few sentences, and what it cannot say.

Sentences are made from tables alone. Their order is fixed: changed behaviour, different turn templates, where
predictions differ, groups of confirmed latents, claims that latent scaling does not confirm, and how much of
the models' difference the latents carry. There are at most MOST of them. The others leave less room for
groups, but the last one goes if there is no room for LEAST_GROUPS.
"""

from collections import Counter
from collections.abc import Mapping
from typing import Any, NamedTuple

import pandas as pd

from crossdiff.latents.strongest_groups import SHOWN, members, strongest
from crossdiff.report.limits import FEW_LATENTS
from crossdiff.report.marks import Known, Mark, changed_behaviour, marks
from crossdiff.report.shown_latents import ShownLatents
from crossdiff.report.template import listed, number, percent
from crossdiff.texts.chats import CONTENT, TEMPLATE_PARTS

MOST = 7  # sentences
LEAST_GROUPS = 3  # that are described if there are as many
MOSTLY = 0.5  # share of firings, KL or answers, from which something is said to be mostly so
OVER = 2  # times that place's share of the text, from which a share of the KL says something
OFTEN = 3  # times as often per token as in the rest of the text, from which a group "fires in" a data set
MORE = 1.5  # times the KL per token of the data set with the least, from which predictions "differ more"
ENOUGH = 1000  # tokens of each data set, from which their KL is compared


# Column of a latent's row -> the sentence on who named it.
NAMED_BY = {"name": "", "explained": " A language model named it from contexts, and may be wrong."}


class Finding(NamedTuple):
    """One sentence of the first screen."""

    text: str
    evidence: str  # numbers behind it, in words
    marks: tuple[Mark, ...] = ()
    latents: tuple[tuple[str, int], ...] = ()  # crosscoder and number of each latent that it rests on
    context: list[Any] | None = None  # tokens of the strongest context


def findings(
    evaluations: Mapping[str, Mapping[str, Any]],
    latents: Mapping[str, ShownLatents],
    groups: Mapping[str, pd.DataFrame],
    refusals: list[dict[str, Any]],
    kl: Mapping[str, pd.DataFrame],
    known: Mapping[str, Known],
    facts: Mapping[str, Any],
    layer: int,
    where: pd.DataFrame | None = None,
    seed: int | None = None,
) -> list[Finding]:
    """Return the sentences of the first screen, in order.

    Mappings go from crosscoder name. ``groups`` are tables of ``group_table``. ``refusals`` are rows of
    refusals.csv. ``kl`` are tables of ``kl_table``. ``known`` is what the marks of latents are made from.
    ``facts`` are those of pair.json. ``layer`` is the 0-based block. ``where`` is the table of
    ``where_table``, if there was a first look. ``seed`` is that of all files, if the run has others.
    """
    before = [*_behaviour(refusals), *_turns(facts), *_where(where)]
    after, last = [*_nothing_confirmed(evaluations, seed), *_refuted(evaluations)], _carried(kl, layer)
    room = max(1, MOST - len(before) - len(after))
    described = _groups(latents, groups, known, min(SHOWN, max(room - len(last), min(room, LEAST_GROUPS))))
    return [*before, *described, *after, *last][:MOST]


def _behaviour(refusals: list[dict[str, Any]]) -> list[Finding]:
    """Say whether the chat model refuses more, or fewer, requests of a kind than the base does."""
    found = []
    of = {(row["model"], row["requests"]): row for row in refusals}
    for kind in (kind for model, kind in of if model == "chat" and ("base", kind) in of):
        base, chat = of["base", kind], of["chat", kind]
        more, less = chat["low"] > base["high"], chat["high"] < base["low"]
        if more and base["high"] < MOSTLY < chat["low"]:
            said = f"refuses {kind} requests"
        elif less and chat["high"] < MOSTLY < base["low"]:
            said = f"no longer refuses {kind} requests"
        elif more or less:
            said = f"refuses {kind} requests {'more' if more else 'less'} often than the base model"
        else:
            continue
        found.append(
            Finding(
                f"The chat model {said}.",
                f"It refuses {chat['refused']} of {chat['asked']} held-out ones, "
                f"the base model {base['refused']} of {base['asked']}.",
            )
        )
    return found


def _turns(facts: Mapping[str, Any]) -> list[Finding]:
    """Say that the chat model has a chat template, and that the base model's is another one or unknown."""
    if "between_turns" not in facts["base"]:  # a pair that an older version checked
        return []
    base, chat = (facts[role]["between_turns"] for role in ("base", "chat"))
    if chat is None or base == chat:
        return []
    between = f"Between an answer and a user's next words it has {_line(chat)}"
    if base is None:
        return [
            Finding("The chat model has a turn template, and the base model has no known one.", f"{between}.")
        ]
    return [
        Finding(
            "The chat model has a turn template that is not the base model's.",
            f"{between}, the base model {_line(base)}.",
        )
    ]


def _line(text: str) -> str:
    """Quote ``text`` on one line, with a sign for each line break."""
    return '"' + text.replace("\n", "↵") + '"'


def _where(where: pd.DataFrame | None) -> list[Finding]:
    """Say where the models predict other tokens: in one small place, or in some data sets more than others.

    A place is the template, or a data set.
    """
    if where is None:
        return []
    total = where[where.by == "data set"].tokens.sum()
    parts = where[(where.by == "part") & (where.value != TEMPLATE_PARTS[CONTENT])]
    places = [("right after tokens of the chat template", parts[["share", "tokens"]].sum())]
    places += [(f"in {row.value}", row) for _, row in where[where.by == "data set"].iterrows()]
    for place, row in places:
        if row.share >= MOSTLY and row.share >= OVER * row.tokens / total:
            return [
                Finding(
                    f"The two models predict different next tokens mostly {place}.",
                    f"{percent(row.share)} of the KL between their predictions is there, and "
                    f"{percent(row.tokens / total)} of the tokens.",
                )
            ]
    return _uneven(where[where.by == "data set"].sort_values("kl", ascending=False, kind="stable"))


def _uneven(sets: pd.DataFrame) -> list[Finding]:
    """Say in which data sets the predictions differ more than in the others.

    ``sets`` are rows of the table, the one with the largest KL per token first.
    """
    sets = sets[sets.tokens >= ENOUGH]
    more = sets[sets.kl > MORE * sets.kl.min()]
    if more.empty:
        return []
    said = [f"{number(row.kl)} nats in {row.value}" for row in sets.itertuples()]
    others = sets.value[len(more) :]
    return [
        Finding(
            f"The two models' predictions differ more in {listed(more.value)} than in {listed(others)}.",
            f"The mean KL per token, after template tokens too, is {listed(said)}.",
        )
    ]


def _groups(
    latents: Mapping[str, ShownLatents],
    groups: Mapping[str, pd.DataFrame],
    known: Mapping[str, Known],
    most: int,
) -> list[Finding]:
    """Describe ``most`` groups of the crosscoder with the most confirmed latents.

    They are among its SHOWN strongest. Those with a latent that changes answers when steered come first.
    """
    counts = {name: table.latent.nunique() for name, table in groups.items() if len(table)}
    if not counts:
        return []
    crosscoder = max(counts, key=lambda name: counts[name])
    table, rows = groups[crosscoder], {row["latent"]: row for row in latents[crosscoder].confirmed}
    contexts = latents[crosscoder].contexts
    found = []
    changes = {
        group: changed_behaviour(members(table, group), known[crosscoder])
        for group in strongest(table, SHOWN)
    }
    for group in sorted(changes, key=lambda group: not changes[group])[:most]:
        does = f", which changes whether an answer {changes[group]}" if changes[group] else ""
        place = _place(table[table.group == group])
        own = [rows[latent] for latent in members(table, group)]
        called, by = _called(own)
        others = f" and {len(own) - 1} more" if len(own) > 1 else ""
        side = "base" if own[0]["class"] == "base-only" else "chat"
        context = next((contexts[row["latent"]] for row in own if contexts.get(row["latent"])), None)
        found.append(
            Finding(
                f"The {side} model has a concept of its own: {called}{others}{does}{_joined(does, place)}.",
                f"{len(own)} confirmed latent{'s' if len(own) > 1 else ''} of {crosscoder}.{by}",
                tuple(marks(own, known[crosscoder], group)),
                tuple((crosscoder, row["latent"]) for row in own),
                context[0] if context else None,
            )
        )
    described = {latent for finding in found for _, latent in finding.latents}
    rest = table[~table.latent.isin(described)]
    counts[crosscoder] -= len(described)
    further = [
        f"{count} of {name}{_places(rest) if name == crosscoder else ''}"
        for name, count in counts.items()
        if count
    ]
    if found and further:
        more = f" Further confirmed latents are in the lists below: {listed(further)}."
        found[-1] = found[-1]._replace(evidence=found[-1].evidence + more)
    return found


def _called(own: list[dict[str, Any]]) -> tuple[str, str]:
    """What a group is called, and a sentence on who named it: people, a language model or a pattern.

    The first latent that has a name of the better kind names the group.
    """
    for column, by in NAMED_BY.items():
        if named := [row[column] for row in own if row[column]]:
            return f'"{named[0]}"', by
    return f"latent {own[0]['latent']} ({own[0]['pattern']})", ""


def _joined(first: str, second: str) -> str:
    """The clause ``second``, which begins with ", which" as ``first`` does if there is one."""
    return second.replace(", which", ", and which", 1) if first else second


def _place(members: pd.DataFrame) -> str:
    """Say where a group fires: mostly in one data set, or in all. Nothing is said between the two."""
    share, text = _shares(members)
    if len(share) == 1:
        return ""
    if first := _main_place(share, text):
        return (
            f", which fires in {first} ({percent(share[first])} of its firings, "
            f"{percent(text[first])} of the text)"
        )
    return ", which fires in all kinds of text" if (OVER * share >= text).all() else ""


def _places(rest: pd.DataFrame) -> str:
    """Say, in brackets, in which data sets most firings of how many single latents are."""
    found = Counter(_main_place(*_shares(rows)) for _, rows in rest.groupby("latent"))
    said = [f"{count} mostly in {place}" for place, count in found.most_common() if place]
    return f" ({listed(said)})" if said else ""


def _main_place(share: pd.Series, text: pd.Series) -> str | None:
    """The data set with most of the firings, if they are far more frequent there than elsewhere."""
    first = str(share.idxmax())
    inside, outside = share[first] * (1 - text[first]), (1 - share[first]) * text[first]
    return first if share[first] >= MOSTLY and inside >= OFTEN * outside else None


def _shares(members: pd.DataFrame) -> tuple[pd.Series, pd.Series]:
    """The share of each data set in the firings of latents, and in the text."""
    firings, tokens = members.groupby("dataset").firings.sum(), members.groupby("dataset").tokens.first()
    return firings / max(firings.sum(), 1), tokens / tokens.sum()


def _nothing_confirmed(evaluations: Mapping[str, Mapping[str, Any]], seed: int | None) -> list[Finding]:
    judged = {name: one for name, one in evaluations.items() if "does_not_apply" not in one}
    if not judged or any(one["others_confirmed"] + one["base_only_confirmed"] for one in judged.values()):
        return []
    return [
        Finding(
            f"Latent scaling confirms no latent{'' if seed is None else f' of seed {seed}'}, "
            "so this page shows no concept that only one model has.",
            f"It tested {sum(one['latents'] for one in judged.values()):,} latents of {', '.join(judged)}.",
        )
    ]


def _refuted(evaluations: Mapping[str, Mapping[str, Any]]) -> list[Finding]:
    """Name crosscoders most of whose chat-only latents, by decoder norm, are not confirmed.

    Of fewer than FEW_LATENTS nothing is said.
    """
    found = []
    for name, one in evaluations.items():
        called, sure = one["classes"]["chat-only"], one["chat_only_confirmed"]
        if (
            "does_not_apply" in one
            or (called or 0) < FEW_LATENTS
            or 2 * sure >= called
            or one.get("chat_only_set") == called
        ):
            continue
        found.append(
            Finding(
                f"Latent scaling does not confirm most latents that {name} calls chat-only by decoder norm.",
                f"It confirms {sure} of {called}. The others have a ratio out of bounds, or none.",
            )
        )
    return found


def _carried(kl: Mapping[str, pd.DataFrame], layer: int) -> list[Finding]:
    """Say how much of the difference before ``layer`` the crosscoder that carries most of it carries."""
    best: tuple[str, pd.DataFrame] | None = None
    for name, table in kl.items():
        rows = table[table.group == "all"].set_index("variant")
        if "all" not in rows.index or pd.isna(rows.reduction_low["all"]):
            continue
        if best is None or rows.reduction["all"] > best[1].reduction["all"]:
            best = name, rows
    if best is None or best[1].reduction_low["all"] <= 0:
        return []
    name, row, unpatched = best[0], best[1].loc["all"], best[1].kl["none"]
    return [
        Finding(
            f"The latents of {name} and its biases together carry {percent(row.reduction)} of what changes "
            f"up to layer {layer} and reaches the chat model's predictions.",
            f"95 % interval {percent(row.reduction_low)} to {percent(row.reduction_high)}: KL on "
            f"{row.tokens:,} answer tokens of {row.conversations} conversations, {number(row.kl)} nats "
            f"instead of {number(unpatched)} with the base's activations there.",
        )
    ]


def limits(cautions: list[str], seeds: int, measured: Mapping[str, bool]) -> list[str]:
    """Return what the run cannot say: cautions, one seed, and parts that were not run.

    ``measured`` says of ``causal`` and ``steering`` whether the config has them.
    """
    found = list(cautions)
    if seeds == 1:
        found.append("There is one seed, so this run cannot say what another training would find.")
    if not measured["causal"]:
        found.append(
            "No section causal: this run cannot say how much these latents matter to the predictions."
        )
    if not measured["steering"]:
        found.append("No section steering: this run cannot say what these latents do to the answers.")
    return found
