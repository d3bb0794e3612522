"""What is counted and averaged of steered answers, by hand and against multinomial draws."""

import numpy as np
import pandas as pd
import pytest

from crossdiff.config import Stated
from crossdiff.intervals import wilson
from crossdiff.interventions.steering_effects import effects, judged

NAN = float("nan")


def answer_rows(**columns) -> pd.DataFrame:
    plain = {"latent": 5, "direction": "latent", "number": 5, "change": "add", "strength": 1.0, "norm": 2.0}
    plain |= {"requests": "harmful", "cut": False, "unfinished": False}
    return pd.DataFrame(plain | columns).astype({"latent": "Int64", "number": "Int64"})


def test_effects_are_counted_and_averaged_by_hand():
    rows = answer_rows(
        shown=[True, True, False],
        cut=[True, False, False],
        kl=[0.1, 0.2, 0.6],
        tokens=[4, 1, 6],
        nats=[8.0, 3.0, 22.0],
    )
    [found] = effects(rows, Stated(), 0).to_dict("records")
    assert (found["asked"], found["shown"], found["rate"], found["cut"]) == (3, 2, 2 / 3, 1)
    assert (found["low"], found["high"]) == wilson(2, 3)[1:]
    assert found["kl"] == pytest.approx(0.3)
    assert found["length"] == pytest.approx(11 / 3)
    assert found["perplexity"] == pytest.approx(np.exp(33 / 11))
    for name in ("kl", "length", "perplexity"):
        assert found[f"{name}_low"] < found[name] < found[f"{name}_high"]


def test_answers_without_a_token_have_no_perplexity():
    rows = answer_rows(shown=[False] * 2, kl=[0.1, 0.2], tokens=[0, 0], nats=[0.0, 0.0])
    [found] = effects(rows, Stated(), 0).to_dict("records")
    assert np.isnan([found["perplexity"], found["perplexity_low"]]).all()
    assert found["length"] == 0


def test_undefined_divergence_stays_undefined():
    rows = answer_rows(shown=[False] * 2, kl=[0.1, NAN], tokens=[1, 2], nats=[1.0, 2.0])
    [found] = effects(rows, Stated(), 0).to_dict("records")
    assert np.isnan([found["kl"], found["kl_low"]]).all()


def test_ablated_rows_without_a_strength_are_a_condition_too():
    measured = {"shown": [True], "kl": 0.0, "tokens": 1, "nats": 1.0}
    none = {"latent": pd.NA, "number": pd.NA, "direction": "none", "change": "none"}
    conditions = ({"strength": NAN, "change": "ablate"}, {}, none)
    rows = pd.concat([answer_rows(**measured, **condition) for condition in conditions])
    assert effects(rows, Stated(), 0).change.tolist() == ["ablate", "add", "none"]


def test_bootstrap_is_that_of_multinomial_draws_of_requests():
    generator = np.random.default_rng(3)
    kl, tokens = generator.exponential(size=9), generator.integers(1, 20, 9)
    nats = generator.exponential(30, size=9)
    rows = answer_rows(shown=[False] * 9, kl=kl, tokens=tokens, nats=nats)
    [found] = effects(rows, Stated(), 4).to_dict("records")
    drawn = np.random.default_rng(4).multinomial(9, [1 / 9] * 9, size=1000)
    expected = {
        "kl": drawn @ kl / 9,
        "length": drawn @ tokens / 9,
        "perplexity": np.exp(drawn @ nats / (drawn @ tokens)),
    }
    for name, values in expected.items():
        assert (found[f"{name}_low"], found[f"{name}_high"]) == pytest.approx(
            np.percentile(values, (2.5, 97.5)), rel=1e-12
        )


def test_bootstrap_has_about_the_spread_of_the_mean_over_new_requests():
    values = np.random.default_rng(0).normal(5, 1, size=200)
    rows = answer_rows(shown=[False] * 200, kl=values, tokens=1, nats=1.0)
    [found] = effects(rows, Stated(), 0).to_dict("records")
    expected = 2 * 1.96 * values.std(ddof=1) / 200**0.5
    assert found["kl_high"] - found["kl_low"] == pytest.approx(expected, rel=0.15)


def said(*answers: str, **columns) -> pd.DataFrame:
    """Answers before anything is counted."""
    return answer_rows(
        answer=answers,
        question=[f"{number}?" for number in range(len(answers))],
        kl=0.1,
        tokens=1,
        nats=1.0,
        **columns,
    )


def test_answers_are_counted_by_what_the_config_states():
    rows = said("I'm sorry, but no.", "Yes. Sorry for that!", "Sorrow is near.", "")
    assert judged(rows, Stated()).shown.tolist() == [True, False, False, False]
    assert judged(rows, Stated(words=["sorry"])).shown.tolist() == [True, True, False, False]
    assert judged(rows, Stated(pattern="^Sorr|is near")).shown.tolist() == [False, False, True, False]


def test_what_nobody_judged_is_counted_apart_and_not_as_a_no():
    rows = said("a", "b", "c", "", unfinished=[False, False, False, True])
    asked = []

    def judge(pairs):
        asked.extend(pairs)
        return [True, None, False]

    found = judged(rows, Stated(judge="Is it rude?"), judge)
    assert asked == [("0?", "a"), ("1?", "b"), ("2?", "c")]  # a thought alone is not asked about
    assert found.shown.isna().tolist() == [False, True, False, True]
    [row] = effects(found, Stated(judge="Is it rude?"), 0).to_dict("records")
    assert (row["asked"], row["shown"], row["unfinished"], row["unjudged"]) == (4, 1, 1, 1)
    assert (row["rate"], row["low"], row["high"]) == wilson(1, 2)
    assert row["behaviour"] == "is judged yes: Is it rude?"


def test_nothing_judged_has_no_rate():
    rows = said("a", "b")
    found = judged(rows, Stated(judge="?"), lambda pairs: [None] * len(pairs))
    [row] = effects(found, Stated(judge="?"), 0).to_dict("records")
    assert (row["shown"], row["unjudged"]) == (0, 2)
    assert np.isnan(row["rate"])
