"""Values of a config that are right one by one and wrong together."""

import io

import pandas as pd
import pytest
from helpers_config import DELETE, SMALL, changed, refusal, refusal_of

from crossdiff.config import load


def test_model_with_two_sources_is_refused():
    line = refusal_of("pair.base.folder", "models/base")
    assert line == (
        "pair.base: found folder and package, give exactly one of hub, folder, package, gguf, adapter, "
        "random, finetune, planted"
    )


def test_model_without_a_source_is_refused():
    assert refusal_of("pair.base", {}) == (
        "pair.base: found none, give exactly one of hub, folder, package, gguf, adapter, random, finetune, "
        "planted"
    )


def test_data_set_with_two_sources_is_refused():
    line = refusal_of("datasets.talk.files", ["talk.jsonl"])
    assert line == "datasets.talk: found hub and files, give exactly one of hub, files, package"


def test_data_set_without_a_source_is_refused():
    assert (
        refusal_of("datasets.talk.hub", DELETE)
        == "datasets.talk: found none, give exactly one of hub, files, package"
    )


def test_base_as_finetune_is_refused():
    line = refusal_of("pair.base", SMALL["pair"]["chat"])
    assert line.startswith("pair") and "found finetune, only the chat model can be made from the base" in line


def test_planted_pair_has_no_chat_model_to_ask():
    planted = {"planted": {"seed": 0, "concepts": {"chat_only": 3}}}
    values = changed("scoring", {}, changed("pair.chat", planted))
    [line] = refusal(values)
    assert (
        line == "pair.chat: found planted, which is no chat model; leave out causal, behaviour and steering"
    )
    alone = changed("causal", DELETE, changed("behaviour", DELETE, values))
    assert load(alone).pair.chat.kind == "planted"
    assert refusal_of("scoring", DELETE, alone) == "scoring: found nothing; it goes with pair.chat.planted"
    assert refusal_of("scoring", {}) == "scoring: found a section; it goes with pair.chat.planted"


@pytest.mark.parametrize(("path", "format"), [("datasets.pages", "messages"), ("datasets.talk", "text")])
def test_format_of_another_kind_is_refused(path, format):
    line = refusal_of(f"{path}.format", format)
    assert line.startswith(f"{path}: format: found '{format}' with kind ") and "allowed: " in line


@pytest.mark.parametrize(("name", "found"), [("pages", "documents"), ("nowhere", "no data set")])
def test_finetune_on_anything_but_chats_is_refused(name, found):
    line = refusal_of("pair.chat.finetune.data", {name: 100})
    assert line == f"pair.chat.finetune.data.{name}: found {found}, allowed: talk"


@pytest.mark.parametrize(("name", "found"), [("pages", "documents"), ("nowhere", "no data set")])
def test_causal_effect_on_anything_but_chats_is_refused(name, found):
    assert (
        refusal_of("causal.datasets", ["talk", name])
        == f"causal.datasets.{name}: found {found}, allowed: talk"
    )


def test_data_set_that_stands_twice_in_causal_is_refused():
    assert refusal_of("causal.datasets", ["talk", "talk"]).startswith(
        "causal.datasets: found ['talk', 'talk'], each data set may appear once"
    )


def test_answers_without_room_for_a_prompt_are_refused():
    assert (
        refusal_of("causal.answer_tokens", 128)
        == "causal.answer_tokens: found 128, must be below tokens.context 128"
    )
    load(changed("causal", {"datasets": ["talk"], "answer_tokens": 128, "answers": "dataset"}))


@pytest.mark.parametrize(
    ("steering", "said"),
    [
        ({"strengths": []}, "steering.strengths: found [] (list), allowed: "),
        (
            {"strengths": [1.0, 0.0]},
            "steering: strengths: found [1.0, 0.0], allowed: different ones, without 0",
        ),
        (
            {"strengths": [1.0, 1.0]},
            "steering: strengths: found [1.0, 1.0], allowed: different ones, without 0",
        ),
        ({"strengths": [float("inf")]}, "steering.strengths.0: found inf"),
        ({"latents": {"nowhere": [3]}}, "steering.latents: found nowhere, allowed: l1, topk"),
        ({"latents": {"topk": [3, 3]}}, "steering.latents.topk: found [3, 3], each latent may appear once"),
        ({"latents": {"topk": [-1]}}, "steering.latents.topk.0: found -1"),
    ],
)
def test_steering_that_can_not_be_is_refused(steering, said):
    assert refusal_of("steering", steering).startswith(said)


@pytest.mark.parametrize(
    ("behaviour", "said"),
    [
        (
            {"pattern": "(a"},
            "steering.behaviour: pattern: found '(a', which is no regular expression (missing )",
        ),
        ({"pattern": ""}, "steering.behaviour.pattern: found '' (text), allowed: text that is not empty"),
        ({"words": []}, "steering.behaviour.words: found [] (list), allowed: at least 1"),
        ({"words": ["a", " "]}, "steering.behaviour: words: found ' ', allowed: text that is not blank"),
        ({"judge": "\t"}, "steering.behaviour: judge: found '\\t', allowed: text that is not blank"),
        (
            {"judge": "Is it rude?"},
            "steering.behaviour.judge: found without explanations, which names the model that judges; give",
        ),
        (
            {"pattern": "a", "words": ["b"]},
            "steering.behaviour: found pattern and words, allowed: at most one of pattern, words, judge",
        ),
    ],
)
def test_behaviour_that_can_not_be_counted_is_refused(behaviour, said):
    assert refusal_of("steering", {"behaviour": behaviour}).startswith(said)


def test_behaviour_is_said_in_words():
    def said(behaviour) -> str:
        model = {"explanations": {"model": {"endpoint": {"url": "http://localhost/v1", "model": "some"}}}}
        return load(changed("steering", {"behaviour": behaviour}) | model).steering.behaviour.said

    assert said({}) == said(None) == "refuses"
    assert said({"pattern": "[Ss]orry"}) == "matches /[Ss]orry/"
    assert said({"words": ["sorry", "as an AI"]}) == "contains one of: sorry, as an AI"
    assert said({"judge": "Is it rude?"}) == "is judged yes: Is it rude?"


def test_prompts_of_steering_are_chats_with_room_for_an_answer():
    chats = next(name for name, source in load(SMALL).datasets.items() if source.kind == "chats")
    without = changed("behaviour", DELETE)
    assert load(changed("steering", {"prompts": chats}, without)).steering.prompts == chats
    assert refusal_of("steering", {"prompts": "nowhere"}) == (
        f"steering.prompts: found no data set, allowed: {chats}"
    )
    context = load(SMALL).tokens.context
    line = refusal_of("steering", {"prompts": chats, "answer_tokens": context})
    assert line == f"steering.answer_tokens: found {context}, must be below tokens.context {context}"


def test_steering_needs_requests():
    line = refusal_of("steering", {}, changed("behaviour", DELETE))
    assert line == (
        "steering: found without behaviour, which names the requests; give behaviour.requests too, "
        "or steering.prompts"
    )
    assert load(changed("steering", {})).steering.latents == {}


def test_causal_section_may_be_left_out():
    assert load(changed("causal", DELETE)).causal is None


def test_expansion_together_with_latents_is_refused():
    line = refusal_of("crosscoders.topk.latents", 64)
    assert line == "crosscoders.topk: found expansion and latents, give exactly one of expansion, latents"


def test_crosscoder_without_a_size_is_refused():
    assert (
        refusal_of("crosscoders.l1.latents", DELETE)
        == "crosscoders.l1: found none, give exactly one of expansion, latents"
    )


def test_fewer_tokens_than_one_batch_are_refused():
    assert (
        refusal_of("crosscoders.l1.tokens", 255)
        == "crosscoders.l1: tokens: found 255, less than one batch of 256"
    )


@pytest.mark.parametrize(
    ("k_max", "steps", "key"),
    [(16, 0, "k_max"), (8, 10, "k_max"), (None, 10, "k_annealing_steps"), (16, 101, "k_annealing_steps")],
    ids=["no steps to anneal in", "nothing to anneal", "no start", "longer than the training"],
)
def test_impossible_annealing_of_k_is_refused(k_max, steps, key):
    topk = {**SMALL["crosscoders"]["topk"], "k_max": k_max, "k_annealing_steps": steps}
    assert refusal_of("crosscoders.topk", topk).startswith(
        f"crosscoders.topk: {key}: found {k_max if key == 'k_max' else steps}"
    )


def test_annealing_of_k_within_the_training_is_accepted():
    topk = {**SMALL["crosscoders"]["topk"], "k_max": 16, "k_annealing_steps": 100}
    assert load(changed("crosscoders.topk", topk)).crosscoders["topk"].k_max == 16


def test_k_above_the_number_of_latents_is_refused():
    topk = {**SMALL["crosscoders"]["topk"], "latents": 7}
    del topk["expansion"]
    line = refusal_of("crosscoders.topk", topk)
    assert line.startswith("crosscoders.topk: k: found 8") and "7" in line


@pytest.mark.parametrize("start", [100, 1000])
def test_threshold_that_starts_after_the_training_is_refused(start):
    line = refusal_of("crosscoders.topk.threshold_start_step", start)
    assert line.startswith(
        f"crosscoders.topk: threshold_start_step: found {start}, must be below the 100 training steps"
    )


def test_threshold_that_starts_at_the_last_step_is_accepted():
    assert load(changed("crosscoders.topk.threshold_start_step", 99)).crosscoders["topk"].steps == 100


def test_range_is_two_numbers():
    for value in ([0.1, 0.2, 0.3], [0.1], 0.3):
        assert (
            refusal_of("classes.shared_between", value)
            == f"classes: shared_between: found {value}, allowed: two numbers in brackets"
        )


def test_name_that_is_none_is_named():
    values = changed("crosscoders.L 1", SMALL["crosscoders"]["l1"])
    assert refusal(values)[0].startswith("crosscoders.L 1: found 'L 1' (text), allowed: lower-case letters")


@pytest.mark.parametrize("name", ["nan", "null"])
def test_name_that_tables_would_read_as_nothing_is_refused(name):
    values = changed(f"crosscoders.{name}", SMALL["crosscoders"]["l1"])
    assert refusal(values) == [
        f"crosscoders.{name}: found {name}, which tables read as nothing; allowed: any other name"
    ]
    assert pd.read_csv(io.StringIO(f"name,value\n{name},1\n")).name.isna().all()


@pytest.mark.parametrize(
    "classes",
    [
        {"base_only_below": 0.4},
        {"base_only_below": 0.5},
        {"shared_between": [0.6, 0.4]},
        {"shared_between": [0.5, 0.5]},
        {"shared_between": [0.4, 0.95]},
        {"chat_only_above": 0.6},
    ],
    ids=str,
)
def test_overlapping_classes_are_refused_and_shown(classes):
    line = refusal_of("classes", classes)
    [found] = classes.values()
    assert line.startswith("classes: ") and "base_only_below < shared_between < chat_only_above" in line
    assert all(str(value) in line for value in (found if isinstance(found, list) else [found]))


def test_classes_in_order_are_accepted():
    classes = load(
        changed("classes", {"base_only_below": 0.2, "shared_between": [0.3, 0.7], "chat_only_above": 0.8})
    ).classes
    assert classes.shared_between == (0.3, 0.7)


@pytest.mark.parametrize("quantiles", [[0.5, 0.25, 1.0], [0.5, 0.5, 1.0], [0.25, 0.5], [0.0, 1.0]], ids=str)
def test_quantiles_that_leave_gaps_or_overlap_are_refused(quantiles):
    line = refusal_of("examples.quantiles", quantiles)
    assert line == f"examples: quantiles: found {quantiles}, allowed: increasing, above 0, the last one 1"


def test_rare_latents_that_are_dense_are_refused():
    line = refusal_of("density", {"dense_above": 0.1, "rare_below": 0.2})
    assert line == "density: rare_below: found 0.2, must be at most dense_above 0.1"
    assert load(changed("density", {"dense_above": 0.1, "rare_below": 0.1})).density.rare_below == 0.1


def test_repeated_seed_is_refused():
    assert refusal_of("seeds", [0, 1, 0]) == "seeds: found [0, 1, 0], each seed may appear once"


def test_batch_that_gpus_can_not_share_is_refused():
    line = refusal_of("gpus", {"training": 3})
    assert line == "crosscoders.l1.batch: found 256, allowed on 3 GPUs (gpus.training): multiples of 3"
    assert load(changed("gpus", {"training": 4})).gpus.training == 4


def test_training_on_several_gpus_without_caches_is_refused():
    values = changed("activations", {"store": "none"})
    assert refusal_of("gpus", {"training": 2}, values) == (
        "gpus.training: found 2, allowed: 1 with activations.store: none, "
        "because crosscoders then train where the models run"
    )
