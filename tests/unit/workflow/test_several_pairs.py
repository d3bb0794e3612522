"""Several pairs and layers in one config: names, views of single jobs, shared tokenizers, the forecast."""

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import ROOT
from snakemake.iocontainers import Wildcards

from crossdiff.config import load
from crossdiff.errors import UserError
from crossdiff.workflow.forecast_run import forecast
from crossdiff.workflow.run import Run, result_folders
from crossdiff.workflow.sizes import ENTRIES_HELD, PROCESS, Shape
from crossdiff.workflow.tokenizer_names import chat_tokenizers, told

PAIRS: dict[str, Any] = yaml.safe_load((ROOT / "configs/tiny-pairs.yaml").read_text())
ONE: dict[str, Any] = yaml.safe_load((ROOT / "configs/tiny.yaml").read_text())
SMALL = Shape(layers=3, d_model=32, d_mlp=64, vocabulary=260, attention=4096)


def changed(key: str, value: Any, values: dict[str, Any] = PAIRS) -> dict[str, Any]:
    values = deepcopy(values)
    *parents, last = key.split("/")
    section = values
    for parent in parents:
        section = section.setdefault(parent, {})
    if value is None:
        del section[last]
    else:
        section[last] = value
    return values


def refusal(values: dict[str, Any]) -> str:
    with pytest.raises(UserError) as caught:
        Run(values)
    [line] = str(caught.value).splitlines()
    return line.removeprefix("config: ")


# What a job sees.


def test_every_pair_is_compared_at_every_layer() -> None:
    found = [(pair.name, pair.layer, pair.base.name, pair.chat.name) for pair in load(PAIRS).comparisons]
    assert found == [
        ("tiny", 0, "tiny-base", "tiny-chat"),
        ("tiny", 1, "tiny-base", "tiny-chat"),
        ("tiny-second", 0, "tiny-base", "tiny-other"),
        ("tiny-second", 1, "tiny-base", "tiny-other"),
    ]


def test_job_sees_its_own_pair_and_layer() -> None:
    seen = load(PAIRS).seen_by({"pair": "tiny-second", "layer": "1"})
    assert (seen.pair.name, seen.pair.layer, seen.pair.chat.name) == ("tiny-second", 1, "tiny-other")
    assert load(PAIRS).seen_by({"model": "tiny-other", "layer": "0"}).pair.name == "tiny-second"


def test_settings_of_a_job_are_those_of_a_config_with_its_pair_alone() -> None:
    """So results are kept when pairs come and go, and when one pair becomes several."""
    job = Wildcards(fromdict={"pair": "tiny", "layer": "1", "crosscoder": "batchtopk", "model": "tiny-chat"})
    one = changed("steering", None, changed("crosscoders", PAIRS["crosscoders"], ONE))
    alone, among = Run(one), Run(PAIRS)
    for keys in (["pair.layer"], ["crosscoders.{crosscoder}"], ["tokens.context", "activations"]):
        assert alone.settings(*keys)(job) == among.settings(*keys)(job)
    keys = [f"models.{{model}}.finetune.{key}" for key in ("data", "seed", "chat_template", "from")]
    assert alone.settings(*keys)(job) == among.settings(*keys)(job)
    assert among.settings(*among.source_keys("tiny-base"))(job) == alone.settings(
        *alone.source_keys("tiny-base")
    )(job)


def test_pair_alone_has_several_layers() -> None:
    values = changed("pair/layers", [2, 0], changed("pair/layer", None, ONE))
    values = changed("steering/latents", {}, changed("catalogue", None, values))
    assert [pair.layer for pair in load(values).comparisons] == [2, 0]
    with pytest.raises(ValueError, match="too many values"):
        _ = load(values).pair


def test_catalogue_of_several_comparisons_has_their_names_in_its_path() -> None:
    values = changed("catalogue", "names/{pair}.{layer}.yaml")
    assert load(values).seen_by({"pair": "tiny", "layer": "0"}).catalogue == "names/tiny.0.yaml"


def test_models_of_no_pair_are_not_made_unless_another_needs_them() -> None:
    values = changed("models/unused", {"folder": "/no/such"})
    values = changed("models/middle", {"finetune": PAIRS["models"]["tiny-chat"]["finetune"]}, values)
    values = changed("models/tiny-other/finetune/from", "middle", values)
    assert Run(values).made == ["middle", "tiny-base", "tiny-chat", "tiny-other"]
    assert Run(values).origin("tiny-other") == "results/models/middle"


def test_folders_of_a_run_are_those_of_all_pairs_and_of_the_page_over_them() -> None:
    tokens = chat_tokenizers(load(PAIRS))["tiny-chat"].name
    assert result_folders(load(PAIRS)) == [
        *("results/tiny", "results/tiny-second", "results/overview", f"results/tokens/{tokens}"),
        *(f"results/activations/tiny-{name}" for name in ("base", "chat", "other")),
    ]
    assert "results/overview" not in result_folders(load(ONE))


# Tokenizers.


def test_fine_tunes_of_one_model_with_one_template_share_a_tokenizer() -> None:
    found = chat_tokenizers(load(PAIRS))
    assert found["tiny-chat"] == found["tiny-other"]
    assert found["tiny-chat"].model == "tiny-base" and found["tiny-chat"].name.startswith("tiny-base-")
    assert list(told(load(PAIRS))) == [
        f"tokenizer {found['tiny-chat'].name}: tiny-chat, tiny-other share its token shards"
    ]


def test_name_of_a_shared_tokenizer_does_not_depend_on_who_shares_it() -> None:
    alone = changed("pairs/tiny", None, changed("models/tiny-chat", None))
    assert chat_tokenizers(load(alone))["tiny-other"] == chat_tokenizers(load(PAIRS))["tiny-other"]


def test_other_template_means_other_tokens_and_is_said() -> None:
    values = changed("models/tiny-other/finetune/chat_template", "data/markers.jinja")
    found = chat_tokenizers(load(values))
    assert found["tiny-chat"].name != found["tiny-other"].name
    assert all("has token shards of its own" in line for line in told(load(values)))
    [first, second] = (Run(values).of(Wildcards(fromdict={"pair": pair})) for pair in ("tiny", "tiny-second"))
    assert first.activations("base") != second.activations("base")


def folder(place: Path, template: str) -> str:
    place.mkdir()
    for name, text in (("config.json", "{}"), ("tokenizer.json", "{}"), ("chat_template.jinja", template)):
        (place / name).write_text(text)
    return str(place)


def test_local_folders_share_if_their_tokenizers_files_are_equal(tmp_path: Path) -> None:
    places = {name: folder(tmp_path / name, text) for name, text in (("a", "x"), ("b", "x"), ("c", "y"))}
    values: dict[str, Any] = PAIRS | {"behaviour": None}
    values["models"] = {name: {"folder": place} for name, place in places.items()}
    values["models"]["start"] = {"folder": places["a"]}
    values["pairs"] = {name: {"base": "start", "chat": name, "layer": 0} for name in places}
    found = chat_tokenizers(load(values))
    assert found["a"].name == found["b"].name != found["c"].name
    assert found["b"].model == "a" and found["c"].model == "c"
    # A name for all is allowed where the config gives one template to all.
    assert refusal(changed("tokens/tokenizer", "one", values)).startswith("tokens.tokenizer: found one, but")
    given = changed("tokens/chat_template", "data/plain.jinja", changed("tokens/tokenizer", "one", values))
    assert {tokenizer.name for tokenizer in chat_tokenizers(load(given)).values()} == {"one"}


def test_adapters_without_a_tokenizer_share_that_of_their_base(tmp_path: Path) -> None:
    values: dict[str, Any] = PAIRS | {"behaviour": None}
    (tmp_path / "lora").mkdir()
    (tmp_path / "lora/adapter_config.json").write_text("{}")
    adapter = {"adapter": {"folder": str(tmp_path / "lora"), "base": "start"}}
    values["models"] = {"start": {"hub": {"name": "a/b", "revision": "main"}}, "x": adapter, "y": adapter}
    values["pairs"] = {name: {"base": "start", "chat": name, "layer": 0} for name in ("x", "y")}
    found = chat_tokenizers(load(values))
    assert found["x"] == found["y"] and found["x"].name == found["x"].model == "start"


def test_fine_tune_of_which_only_another_is_made_has_its_tokenizer_too() -> None:
    """The job of ``middle`` needs it, though no pair names this model."""
    fine = PAIRS["models"]["tiny-other"]["finetune"]
    values = changed("models/middle", {"finetune": fine})
    values = changed("models/tiny-other/finetune/from", "middle", values)
    assert Run(values).tokenizers["middle"] == chat_tokenizers(load(PAIRS))["tiny-other"]
    assert not any("middle" in line.split(": ", 1)[1] for line in told(load(values)))


# What is refused.


@pytest.mark.parametrize(
    ("key", "value", "line"),
    [
        ("pairs/tiny/chat", "gone", "pairs.tiny.chat: found gone, allowed: tiny-base, tiny-chat, tiny-other"),
        ("pairs/tiny/chat", "tiny-base", "pairs.tiny.chat: found tiny-base, which is the base model too"),
        ("pairs/tiny/layers", [1, 1], "pairs.tiny: layers: found [1, 1], each layer may appear once"),
        ("pairs/tiny/layer", 1, "pairs.tiny: found layer and layers, give exactly one of layer, layers"),
        ("pairs/tiny/layers", [0, 3], "pairs.tiny.layers: found 3, the models have layers 0 to 2"),
        ("pairs/models", {"base": "tiny-base", "chat": "tiny-chat", "layer": 0}, "pairs: found models,"),
        ("pairs", {}, "found no pair, allowed: pair, or pairs and models"),
        ("models/base", {"folder": "x"}, "models.base: the name is taken"),
        ("models/tiny-chat/name", "x", "models.tiny-chat.name: found x; leave it out"),
        (
            "models/tiny-chat/finetune/from",
            "tiny-chat",
            "models.tiny-chat.finetune.from: found tiny-chat, allowed",
        ),
        (
            "models/tiny-base",
            {"adapter": {"folder": "x"}},
            "models.tiny-base.adapter.base: found base, allowed",
        ),
        ("catalogue", "names.yaml", "catalogue: found names.yaml, but latents differ with pair and layer"),
        ("overview", "tiny-second", "overview: found tiny-second, which is the name of a pair; give another"),
        ("overview", "tokens", "overview: found tokens, which is the name of a folder that all runs share;"),
        ("tokens/base_replacements", {3: 4}, None),
    ],
)
def test_what_can_not_be_is_one_line(key: str, value: Any, line: str | None) -> None:
    values = changed(key, value)
    if line is None:  # no model is both base and chat
        assert Run(values).replacements("tiny-base") == [[3, 4]]
        values = changed("pairs/third", {"base": "tiny-chat", "chat": "tiny-other", "layer": 0}, values)
        assert refusal(values).startswith("tokens.base_replacements: tiny-chat is the base of one pair and")
        return
    if "models have layers" in line:
        from crossdiff.workflow.shapes import check_fit

        with pytest.raises(UserError, match=line):
            check_fit(load(values))
        return
    assert refusal(values).startswith(line)


def test_models_that_are_made_from_each_other_are_refused() -> None:
    values = changed("models/tiny-chat/finetune/from", "tiny-other")
    values["models"]["tiny-other"]["finetune"]["from"] = "tiny-chat"
    assert "is itself made from" in refusal(values)


def test_pair_and_pairs_do_not_go_together() -> None:
    assert (
        refusal(PAIRS | {"pair": ONE["pair"]}) == "found pairs and pair, allowed: pair, or pairs and models"
    )
    values = {key: value for key, value in PAIRS.items() if key != "pairs"}
    assert refusal(values | {"pair": ONE["pair"]}).startswith("models: found with pair")


# The forecast.


def test_forecast_counts_what_pairs_and_layers_share_once() -> None:
    needs = forecast(load(PAIRS), SMALL)
    shards = 2 + 3  # of both splits
    assert needs["tokenise"].jobs == shards
    assert needs["harvest_activations"].jobs == 3 * shards
    assert needs["prove_model"].jobs == 3 * 2
    assert needs["finetune_model"].jobs == 2
    assert needs["train_crosscoder"].jobs == 4
    one = changed("pairs/tiny-second", None, changed("pairs/tiny/layers", [1]))
    alone = forecast(load(one), SMALL)
    # Three models at two layers are written, each by a pass to the deeper one.
    assert needs["harvest_activations"].disk == pytest.approx(3 * alone["harvest_activations"].disk)
    assert needs["harvest_activations"].flop == pytest.approx(1.5 * alone["harvest_activations"].flop)
    assert needs["train_crosscoder"].disk == pytest.approx(4 * alone["train_crosscoder"].disk)
    # A job holds a part of both caches: bfloat16 of a shard's tokens.
    shard = load(PAIRS).tokens.shard * 2 * SMALL.d_model
    assert needs["harvest_activations"].host == PROCESS + 2 * shard
    assert alone["harvest_activations"].host == PROCESS + shard


def test_forecast_of_the_comparison_holds_the_chat_decoders_of_all_pairs() -> None:
    need = forecast(load(PAIRS), SMALL)["compare_pairs"]
    decoder = 4 * 32 * (4 * 32)  # float32, d_model, latents
    assert (need.jobs, need.tokens, need.disk, need.device) == (1, 3000, 0, 0)
    # One crosscoder has encoders and decoders of two models. There are two pairs, and two copies.
    assert need.host == PROCESS + ENTRIES_HELD + (4 + 2 + 2) * decoder
    assert "compare_pairs" not in forecast(load(ONE), SMALL)


def test_forecast_of_one_pair_is_what_it_was() -> None:
    config = load(ONE)
    assert forecast(config, SMALL)["train_crosscoder"].jobs == len(config.crosscoders) * len(config.seeds)
    assert forecast(config, {"tiny": SMALL}) == forecast(config, SMALL)
