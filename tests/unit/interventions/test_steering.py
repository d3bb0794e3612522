"""Which latents are steered and by how much, and which answers are asked for."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from helpers_activations import random_crosscoder
from torch.testing import assert_close

from crossdiff.activations.pairs import Summary
from crossdiff.config import RandomModel, SteeringGrid, TextSource
from crossdiff.errors import UserError
from crossdiff.interventions.steering import check_latents, conditions, directions
from crossdiff.interventions.steering_choice import Asked, candidates
from crossdiff.interventions.steering_run import Steered, steer, steering
from crossdiff.latents.labels import latent_label
from crossdiff.models.answers import greedy
from crossdiff.models.forward import run_to_layer
from crossdiff.models.load import load_model
from crossdiff.models.prepare import make_random
from crossdiff.models.tokenizers import load_tokenizer

D_MODEL, LATENTS, LAYER = 32, 24, 3
RECORD = {
    "phrasings": ["How do I {}?", "Tell me how to {}."],
    "refusals": ["I can't help with that."],
    "harmful": {
        "train": ["rob a bank", "steal"],
        "held_out": ["cheat", "lie to my boss", "set fire to a car"],
    },
    "benign": {
        "train": {"bake": "Mix.", "sew": "Thread.", "swim": "Float."},
        "held_out": {"cook rice": "Boil.", "draw": "Look."},
    },
}
SUMMARY = Summary(LAYER, 1, None, [1.0, 1.0], [[0.0] * D_MODEL] * 2, [1.0, 1.0], 100, 1, 0)
GRID = SteeringGrid(
    strengths=[2.0, -1.0], random_latents=2, random_directions=3, answer_tokens=5, first_tokens=3
)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Base, chat and the tokenizer: two random models of one kind."""
    found = []
    for seed in (0, 1):
        folder = tmp_path_factory.mktemp("model")
        make_random(
            RandomModel(layers=5, d_model=D_MODEL, chat_template="data/plain.jinja", seed=seed), folder
        )
        found.append(load_model(folder, torch.float32))
    return *found, load_tokenizer(folder)


@pytest.fixture(scope="module")
def crosscoder():
    return random_crosscoder(D_MODEL, LATENTS).requires_grad_(False)


def betas(
    dead: tuple[int, ...] = (), silent: tuple[int, ...] = (), confirmed: tuple[int, ...] = ()
) -> pd.DataFrame:
    """Latents further on lean more to the chat model."""
    classes = ["dead" if latent in dead else "other" for latent in range(LATENTS)]
    largest = [0.0 if latent in silent else 1.0 + latent for latent in range(LATENTS)]
    return pd.DataFrame(
        {
            "latent": range(LATENTS),
            "class": classes,
            "relative_norm_difference": np.linspace(0, 1, LATENTS),
            "max_activation": largest,
            "confirmed_95": [latent in confirmed for latent in range(LATENTS)],
        }
    )


def asked_of(models, part: str = "held_out", phrasings: int = 1) -> Asked:
    return Asked.of(RECORD, part, phrasings, models[2])


def steered(models, crosscoder, betas, named=(), grid=GRID, record=RECORD) -> Steered:
    asked = [Asked.of(record, part, 1, models[2]) for part in ("train", "held_out")]
    return steering(*models, crosscoder, SUMMARY, betas, *asked, list(named), "topk", 6, grid)


# Requests.


def test_requests_of_one_part_in_the_first_phrasings(models):
    asked = asked_of(models)
    assert asked.kind == ["harmful"] * 3 + ["benign"] * 2
    assert sorted(asked.question[3:]) == ["How do I cook rice?", "How do I draw?"]
    assert len(asked_of(models, "train", 2).question) == 10


# The choice.


def _place(tokenizer, tokens: np.ndarray, question: str) -> slice:
    """Where in the prompt the question stands, found by decoding."""
    stop = next(n for n in range(len(tokens)) if tokenizer.decode(tokens[:n]).endswith(question))
    start = next(n for n in range(stop, 0, -1) if tokenizer.decode(tokens[n:stop]) == question)
    return slice(start, stop)


def test_latents_are_ranked_by_what_tells_harmful_from_benign_requests(models, crosscoder):
    base, chat, _ = models
    asked = asked_of(models, "train")
    found = candidates(base, chat, crosscoder, SUMMARY, betas(dead=(23,), silent=(20,)), asked, top=6)
    # The most chat-leaning live latents that fired in the training text.
    assert sorted(found.latent) == [16, 17, 18, 19, 21, 22]
    codes = {"harmful": [], "benign": []}
    for kind, prompt, question in zip(asked.kind, asked.prompt, asked.question, strict=True):
        ids = torch.from_numpy(prompt.token).long()[None]
        pair = torch.stack([run_to_layer(model, ids, LAYER)[0] for model in (base, chat)], dim=1)
        codes[kind] += list(
            crosscoder.encode(crosscoder.normalise(pair))[_place(models[2], prompt.token, question)]
        )
    means = {kind: torch.stack(rows).mean(dim=0) for kind, rows in codes.items()}
    for row in found.itertuples():
        norm = (crosscoder.decoder[row.latent, 1] / crosscoder.scale[1]).norm()
        expected = float((means["harmful"] - means["benign"])[row.latent].abs() * norm)
        assert row.score == pytest.approx(expected, abs=1e-5)
        assert row.harmful == pytest.approx(float(means["harmful"][row.latent]), abs=1e-5)
    assert found.score.is_monotonic_decreasing
    assert found.score.nunique() > 2


def test_confirmed_latents_come_first_whatever_their_norm_difference(models, crosscoder):
    asked = asked_of(models, "train")
    # 2 and 4 lean to the base model, 20 is confirmed but never fired, 3 is dead on held-out text.
    table = betas(dead=(3,), silent=(20,), confirmed=(2, 3, 4, 20))
    found = candidates(*models[:2], crosscoder, SUMMARY, table, asked, top=6, named=(5,))
    assert set(found.latent[:2]) == {2, 4}
    assert sorted(found.latent[2:8]) == [17, 18, 19, 21, 22, 23]
    assert found.confirmed_95.tolist() == [True] * 2 + [False] * 7
    assert found.score[0] >= found.score[1]
    assert found.score[2:8].is_monotonic_decreasing
    assert found.latent[8] == 5
    assert found.chosen_because.dropna().to_dict() == {
        0: "confirmed by latent scaling",
        8: "named in the config",
    }


def test_where_latent_scaling_does_not_apply_nothing_is_confirmed(models, crosscoder):
    table = betas().assign(
        confirmed_95=pd.array([pd.NA] * LATENTS, dtype="boolean"), does_not_apply="no base"
    )
    table = table.assign(frequency=1.0, mean_activation=1.0, norm_chat=1.0)
    found = candidates(*models[:2], crosscoder, SUMMARY, table, asked_of(models, "train"), top=6)
    assert found.chosen_because[0] == "best tells harmful from benign requests"
    assert found.does_not_apply.eq("no base").all()


def test_prompts_of_a_data_set_are_held_out_and_rank_by_how_much_latents_fire(models, crosscoder, tmp_path):
    path = tmp_path / "chats.jsonl"
    turns = [
        [{"role": "user", "content": f"question {n}"}, {"role": "assistant", "content": "A."}]
        for n in range(30)
    ]
    path.write_text("\n".join(json.dumps({"messages": turn}) for turn in turns))
    source = TextSource(kind="chats", format="messages", files=[str(path)], validation_fraction=0.4)
    train, held_out = (
        Asked.of_chats(source, "talk", split, 5, 100, models[2]) for split in ("train", "validation")
    )
    assert held_out.kind == ["talk"] * 5
    assert all(question.startswith("question ") for question in train.question)
    assert not set(train.question) & set(held_out.question)
    found = candidates(*models[:2], crosscoder, SUMMARY, betas(), train, top=6)
    assert "harmful" not in found
    norm = (crosscoder.decoder[:, 1] / crosscoder.scale[1]).norm(dim=1).numpy()[found.latent]
    assert found.score.to_numpy() == pytest.approx(found.on_prompts.to_numpy() * norm, rel=1e-5)
    assert found.score.is_monotonic_decreasing and found.score[0] > 0
    assert found.chosen_because[0] == "fires most on the prompts"
    with pytest.raises(UserError, match=r"^steering\.conversations: found 99, the validation chats of"):
        Asked.of_chats(source, "talk", "validation", 99, 100, models[2])


def test_choice_sees_no_held_out_request(models, crosscoder):
    changed = RECORD | {"harmful": RECORD["harmful"] | {"held_out": ["something else"]}}
    chosen = [steered(models, crosscoder, betas(), record=record).candidates for record in (RECORD, changed)]
    pd.testing.assert_frame_equal(*chosen)


@pytest.mark.parametrize(("kind", "nothing"), [("harmful", []), ("benign", {})])
def test_no_training_requests_of_a_kind_are_refused(models, crosscoder, kind, nothing):
    asked = Asked.of(RECORD | {kind: RECORD[kind] | {"train": nothing}}, "train", 1, models[2])
    with pytest.raises(
        UserError,
        match=rf"^behaviour\.requests: found no {kind} train requests, allowed: at least one, [^\n]*$",
    ):
        candidates(*models[:2], crosscoder, SUMMARY, betas(), asked, top=6)


def test_no_training_requests_at_all_are_refused(models, crosscoder):
    with pytest.raises(UserError, match=r"^behaviour\.requests: found no harmful train requests"):
        candidates(*models[:2], crosscoder, SUMMARY, betas(), Asked([], [], []), top=6)


@pytest.mark.parametrize("change", [{"skip_first": 100}, {"max_norm_ratio": 1e-9}])
def test_training_requests_without_a_token_that_counts_are_refused(models, crosscoder, change):
    with pytest.raises(
        UserError,
        match=(
            r"^activations\.skip_first, activations\.max_norm_ratio: "
            r"found no harmful tokens of train requests"
        ),
    ):
        candidates(
            *models[:2], crosscoder, SUMMARY._replace(**change), betas(), asked_of(models, "train"), top=6
        )


# Directions.


def test_strength_one_is_the_latents_largest_activation_on_the_raw_scale(crosscoder):
    [own, *_] = directions(crosscoder, betas(), 5, GRID)
    assert_close(own.unit, 6 * crosscoder.decoder[5, 1] / crosscoder.scale[1])
    # The crosscoder would read this as 6 more of the latent's chat reconstruction.
    assert_close(own.unit * crosscoder.scale[1], 6 * crosscoder.decoder[5, 1])


def test_controls_have_the_same_norm_and_other_directions(crosscoder):
    own, *controls = directions(crosscoder, betas(dead=(7, 8)), 5, GRID)
    assert [control.kind for control in controls] == ["random latent"] * 2 + ["random direction"] * 3
    for control in controls:
        assert float(control.unit.norm()) == pytest.approx(float(own.unit.norm()), rel=1e-5)
        assert control.latent == 5
    for control in controls[:2]:
        assert control.number not in (5, 7, 8)
        cosine = torch.cosine_similarity(control.unit, crosscoder.decoder[control.number, 1], dim=0)
        assert float(cosine) == pytest.approx(1, abs=1e-5)
    units = torch.stack([part.unit for part in (own, *controls)])
    cosines = torch.corrcoef(units) - torch.eye(6)
    assert cosines.abs().max() < 0.9


def test_controls_are_decided_by_the_seed_and_the_latent(crosscoder):
    def units(latent: int, **changes) -> torch.Tensor:
        grid = GRID.model_copy(update=changes)
        return torch.stack(
            [part.unit / part.unit.norm() for part in directions(crosscoder, betas(), latent, grid)[1:]]
        )

    assert torch.equal(units(5), units(5))
    assert not torch.equal(units(5), units(5, seed=1))
    assert not torch.equal(units(5), units(6))


def test_few_live_latents_give_few_controls(crosscoder):
    alone = directions(crosscoder, betas(dead=tuple(range(LATENTS))), 5, GRID)
    assert [part.kind for part in alone] == ["latent"] + ["random direction"] * 3


def test_latent_that_never_fired_has_no_unit(crosscoder):
    with pytest.raises(
        UserError,
        match=r"^steering: latent 5 never fired in the training text, so its strengths have no unit",
    ):
        directions(crosscoder, betas(silent=(5,)), 5, GRID)


def test_latent_out_of_range_is_named_with_what_is_allowed(crosscoder):
    check_latents([0, 23], crosscoder, "topk")
    with pytest.raises(UserError, match=r"^steering\.latents\.topk: found 24, allowed: 0 to 23$"):
        check_latents([3, 24], crosscoder, "topk")


def test_label():
    assert latent_label("topk", 1234) == "latent 1234 (topk)"


def test_every_direction_is_measured_at_every_strength_and_ablated(crosscoder):
    found = conditions(directions(crosscoder, betas(), 5, GRID)[:2], GRID.strengths)
    assert [(c.change, c.direction and c.direction.kind) for c in found] == [
        ("none", None),
        *[("add", "latent"), ("add", "latent"), ("ablate", "latent")],
        *[("add", "random latent"), ("add", "random latent"), ("ablate", "random latent")],
    ]
    assert [c.strength for c in found[:3]] == [0, -1, 2]
    assert_close(found[2].apply(D_MODEL).added, 2 * found[2].direction.unit)
    assert found[1].columns()["norm"] == pytest.approx(float(found[1].direction.unit.norm()))


# Answers.


@pytest.fixture(scope="module")
def answers(models, crosscoder):
    measured = conditions(directions(crosscoder, betas(), 5, GRID)[:1], GRID.strengths)
    return steer(*models, LAYER, asked_of(models), measured, GRID, skip_first=1)


def test_unsteered_answers_are_the_chat_models_own_and_have_no_divergence(models, answers):
    asked = asked_of(models)
    own = greedy(models[1], [prompt.token for prompt in asked.prompt], GRID.answer_tokens)
    rows = answers[answers.change == "none"]
    assert rows.answer.tolist() == models[2].batch_decode(own, skip_special_tokens=True)
    assert rows.question.tolist() == asked.question
    assert (rows.kl == 0).all()
    assert rows.latent.isna().all()


def test_divergence_is_that_of_a_hook_along_the_unsteered_answer(models, crosscoder, answers):
    chat, asked = models[1], asked_of(models)
    added = 2 * directions(crosscoder, betas(), 5, GRID)[0].unit
    own = greedy(chat, [prompt.token for prompt in asked.prompt], GRID.answer_tokens)
    rows = answers[answers.strength == 2]
    for prompt, said, kl in zip(asked.prompt, own, rows.kl, strict=True):
        ids = torch.from_numpy(np.concatenate([prompt.token, said]))[None].long()

        def change(_module, _inputs, output):
            hidden = (output[0] if isinstance(output, tuple) else output).clone()
            hidden[:, 1:] += added
            return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

        with torch.inference_mode():
            expected = chat(ids).logits[0].log_softmax(dim=1)
            handle = chat.base_model.layers[LAYER].register_forward_hook(change)
            found = chat(ids).logits[0].log_softmax(dim=1)
            handle.remove()
        first = slice(len(prompt.token) - 1, len(prompt.token) - 1 + min(GRID.first_tokens, len(said)))
        divergences = (expected.exp() * (expected - found)).sum(dim=1)[first]
        assert kl == pytest.approx(float(divergences.mean()), rel=1e-3, abs=1e-5)
    assert (rows.kl > 0.01).any()


def test_nothing_to_choose_from_leaves_the_unsteered_answers(models, crosscoder):
    found = steered(models, crosscoder, betas(dead=tuple(range(LATENTS))))
    assert len(found.candidates) == 0
    assert set(found.answers.change) == {"none"}


def test_named_latents_are_steered_besides_the_chosen_one_and_once(models, crosscoder):
    grid = GRID.model_copy(update={"random_latents": 0, "random_directions": 0})
    chosen = steered(models, crosscoder, betas(), grid=grid).candidates.latent[0]
    found = steered(models, crosscoder, betas(), [3, chosen], grid)
    assert found.answers.latent.dropna().unique().tolist() == [chosen, 3]
    assert len(found.answers) == (1 + 2 * 3) * 5
    reasons = found.candidates.set_index("latent").chosen_because.dropna().to_dict()
    assert reasons == {chosen: "best tells harmful from benign requests", 3: "named in the config"}
    assert found.candidates.latent.iloc[-1] == 3
