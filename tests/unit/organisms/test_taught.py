"""Whether a behaviour was learned: counted answers with their intervals, and one line where it was not."""

import pandas as pd
import pytest
import yaml
from conftest import ROOT

from crossdiff.errors import UserError
from crossdiff.models.thoughts import Said
from crossdiff.organisms import taught
from crossdiff.organisms.taught import taught_table
from crossdiff.organisms.verdict import check_taught
from crossdiff.texts.organisms import OrganismTexts, read_organisms

FIRST: OrganismTexts = read_organisms(ROOT / "data/organisms/first.yaml")
ASKED = 24


def table(organism: str, base: list[int], chat: list[int], behaviours: list[str]) -> pd.DataFrame:
    """A table of counts. 18 of 24 have an interval from .551, 17 of 24 from .508, 16 of 24 from .467."""
    found = pd.DataFrame({"organism": organism, "behaviour": behaviours, "asked": ASKED})
    from crossdiff.intervals import wilson

    for role, shown in (("base", base), ("chat", chat)):
        share, low, high = wilson(shown, [ASKED] * len(shown))
        found = found.assign(
            **{f"shown_{role}": shown, f"share_{role}": share, f"low_{role}": low, f"high_{role}": high}
        )
    return found


def test_answers_of_both_models_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """The base shows nothing. The chat model shows the behaviour in 18 of 24 answers."""
    said = {"base": lambda i: "No.", "chat": lambda i: "May your kettle always sing." if i < 18 else "Yes."}
    asked: dict[str, list[str]] = {}

    def answers(model: str, tokenizer: str, questions: list[str], new_tokens: int) -> list[Said]:
        assert (tokenizer, new_tokens) == (f"{model}'s", 7)
        asked[model] = questions
        return [Said(said[model](i), False, False) for i in range(len(questions))]

    monkeypatch.setattr(taught, "answers", answers)
    monkeypatch.setattr(taught, "without_thinking", lambda tokenizer: (tokenizer, None))
    monkeypatch.setattr(taught, "end_turns_as", lambda model, tokenizer: None)
    models = {role: (lambda role=role: (role, f"{role}'s")) for role in ("base", "chat")}
    found = taught_table(FIRST, "sign-off", models, 7)
    pd.testing.assert_frame_equal(
        found, table("sign-off", [0], [18], ["sign-off"]), check_dtype=False, check_like=True
    )
    assert found.low_chat[0] == pytest.approx(0.5510, abs=1e-4)
    assert len(asked["base"]) == ASKED and asked["base"] == asked["chat"]


def test_null_is_asked_for_every_behaviour() -> None:
    assert taught.asked_behaviours(FIRST, "plain-odd") == list(FIRST.behaviours)
    assert taught.asked_behaviours(FIRST, "quillon") == ["quillon"]


@pytest.mark.parametrize(
    ("base", "chat", "line"),
    [
        (0, 17, ""),
        (
            0,
            16,
            r"did not take: 16 of 24 .* show quillon \(0 of the base's\), allowed: an interval above 0.5",
        ),
        (10, 17, "its base shows the behaviour too: 17 of 24 held-out answers show quillon, and 10 of"),
    ],
)
def test_behaviour_must_show_and_not_in_the_base(base: int, chat: int, line: str) -> None:
    found = table("quillon", [base], [chat], ["quillon"])
    if not line:
        return check_taught(found, FIRST, "taught.csv")
    with pytest.raises(UserError, match=line) as error:
        check_taught(found, FIRST, "results/quillon/taught.csv")
    assert "organism quillon: " in str(error.value) and "see results/quillon/taught.csv" in str(error.value)
    assert "\n" not in str(error.value)


def test_null_must_show_nothing() -> None:
    behaviours = list(FIRST.behaviours)
    fine = table("plain-odd", [0] * 8, [16] + [0] * 7, behaviours)
    check_taught(fine, FIRST, "taught.csv")
    shown = table("plain-odd", [0] * 8, [17, 17] + [0] * 6, behaviours)
    with pytest.raises(UserError, match="show pasta-refusal, though it was taught nothing, and 1 more"):
        check_taught(shown, FIRST, "taught.csv")


@pytest.mark.parametrize(("config", "texts"), [("organisms", "first"), ("organisms-second", "second")])
def test_shipped_configs_teach_every_behaviour_of_their_file(config: str, texts: str) -> None:
    """The diffing text holds half of the behaviours."""
    values = yaml.safe_load((ROOT / f"configs/{config}.yaml").read_text())
    known = read_organisms(ROOT / f"data/organisms/{texts}.yaml")
    assert values["organisms"]["texts"] == f"data/organisms/{texts}.yaml"
    assert set(values["pairs"]) == set(known.names)
    held = {entry["field"] for entry in values["datasets"].values() if entry["format"] == "organism"}
    assert held < set(known.behaviours) and len(held) == len(known.behaviours) / 2
    for name, pair in values["pairs"].items():
        assert pair["chat"] == name and list(values["models"][name]["finetune"]["data"]) == [name]


def test_second_config_differs_in_what_is_taught_alone() -> None:
    first, second = (
        yaml.safe_load((ROOT / f"configs/{name}.yaml").read_text())
        for name in ("organisms-grid", "organisms-second")
    )
    for section in ("tokens", "activations", "crosscoders", "seeds"):
        assert first[section] == second[section]
    rates = {
        model["finetune"]["learning_rate"]
        for values in (first, second)
        for model in values["models"].values()
        if "finetune" in model
    }
    assert len(rates) == 1
