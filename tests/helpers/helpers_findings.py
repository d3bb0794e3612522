"""Tables from which sentences of the first screen follow."""

from typing import Any

import pandas as pd

from crossdiff.report.findings import Finding, findings
from crossdiff.report.marks import Known
from crossdiff.report.shown_latents import ShownLatents

JUDGED = {
    "latents": 100,
    "classes": {"chat-only": 10},
    "chat_only_confirmed": 8,
    "others_confirmed": 9,
    "base_only_confirmed": 0,
}


def refused(
    base: tuple[float, float], chat: tuple[float, float], kind: str = "harmful"
) -> list[dict[str, Any]]:
    """Rows with these intervals."""
    return [
        {"model": model, "requests": kind, "asked": 72, "refused": number, "low": low, "high": high}
        for model, number, (low, high) in (("base", 2, base), ("chat", 70, chat))
    ]


def latent(number: int, **changes: Any) -> dict[str, Any]:
    row = {"latent": number, "class": "other", "name": "", "explained": ""}
    row |= {"pattern": f"after {number}", "confirmed_95": True}
    return row | {"contexts": [[f"context of {number}"]]} | changes


def turns(base: str | None, chat: str | None) -> dict[str, Any]:
    """Facts of a pair with these texts between turns."""
    return {"base": {"between_turns": base}, "chat": {"between_turns": chat}}


def said(
    rows: list[dict[str, Any]] | None = None,
    groups: list[tuple[int, int, float]] | None = None,
    firings: tuple[int, int] = (90, 10),
    evaluation: dict[str, Any] = JUDGED,
    **given: Any,
) -> list[Finding]:
    """Findings of a crosscoder topk. ``groups``: (latent, group, strength). A tenth of the text is talk."""
    rows = rows or []
    table = pd.DataFrame(groups or [], columns=["latent", "group", "strength"])
    parts = zip(("talk", "pages"), firings, (100, 900), strict=True)
    table = pd.concat([table.assign(dataset=name, firings=fired, tokens=size) for name, fired, size in parts])
    contexts = {row["latent"]: row["contexts"] for row in rows}
    defaults: dict[str, Any] = {
        "layer": 12,
        "refusals": [],
        "kl": {},
        "known": {"topk": Known()},
        "facts": turns("\n", "\n"),
    }
    return findings(
        {"topk": evaluation},
        {"topk": ShownLatents(rows, rows, contexts)},
        {"topk": table},
        **defaults | given,
    )
