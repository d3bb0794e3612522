"""The front door on a finished run: load a crosscoder, encode a text, read its latents, change an answer."""

import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import Checkout
from safetensors.torch import load_file

import crossdiff
from crossdiff import LoadedCrosscoder, Pair, UserError

QUESTION = "How do I boil an egg?"
CHAT = [{"role": "user", "content": QUESTION}, {"role": "assistant", "content": "In a pot of water."}]


@pytest.fixture(scope="module")
def layer(finished: Checkout) -> Path:
    return finished.folder / "results/tiny/layer1"


@pytest.fixture(scope="module")
def pair(layer: Path) -> Pair:
    return crossdiff.Pair(layer.parent)


@pytest.fixture(scope="module")
def crosscoder(layer: Path) -> LoadedCrosscoder:
    return crossdiff.load(layer / "batchtopk/seed0")


def test_import_is_lazy() -> None:
    code = (
        "import sys, crossdiff; print(crossdiff.__version__, 'torch' in sys.modules, 'pandas' in sys.modules)"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.split()[1:] == ["False", "False"]
    assert printed[0].isdigit()


def test_every_name_of_the_front_door_is_there() -> None:
    assert all(getattr(crossdiff, name) is not None for name in crossdiff.__all__)
    assert dir(crossdiff) == crossdiff.__all__
    with pytest.raises(AttributeError, match="no attribute 'Loaded'"):
        _ = crossdiff.Loaded


def test_a_folder_a_file_and_a_folder_above_give_the_same(layer: Path, tmp_path: Path) -> None:
    training = layer / "l1/seed0"
    single = shutil.copytree(training, tmp_path / "mine/seed0")
    weights = [
        crossdiff.load(path).module.decoder
        for path in (training, training / "weights.safetensors", str(training), single.parent)
    ]
    assert all(torch.equal(weights[0], other) for other in weights[1:])


def test_codes_are_those_of_the_paper(crosscoder: LoadedCrosscoder, pair: Pair, layer: Path) -> None:
    """From the files alone: f = ReLU(encoder x + bias), if f times the summed decoder norms exceeds the
    threshold.
    """
    found = pair.activations(CHAT)
    codes = crosscoder.encode(found)
    stored = load_file(layer / "batchtopk/seed0/weights.safetensors")
    x = (found.values - stored["mean"]) * stored["scale"][:, None]
    f = torch.relu(torch.einsum("tmd,lmd->tl", x, stored["encoder"]) + stored["encoder_bias"])
    f = torch.where(f * stored["decoder"].norm(dim=2).sum(dim=1) > stored["threshold"], f, 0)
    f[~torch.from_numpy(found.counts)] = 0
    assert (f > 0).any()
    torch.testing.assert_close(codes.values, f, rtol=1e-4, atol=1e-5)
    assert len(codes) == len(codes.tokens) == len(found.values)
    assert torch.equal(crosscoder.encode(found.values).values[found.counts], codes.values[found.counts])


def test_tokens_that_do_not_count_have_no_latent(crosscoder: LoadedCrosscoder, pair: Pair) -> None:
    found = pair.activations(CHAT)
    assert pair.summary.skip_first > 0
    assert not found.counts[: pair.summary.skip_first].any()
    assert found.counts.any()
    assert not crosscoder.encode(found).values[~found.counts].any()


def test_decoding_is_on_the_scale_of_the_activations(crosscoder: LoadedCrosscoder, layer: Path) -> None:
    stored = load_file(layer / "batchtopk/seed0/weights.safetensors")
    codes = torch.zeros(2, crosscoder.latents)
    codes[1, 3] = 2.0
    expected = stored["decoder_bias"] + 2 * stored["decoder"][3]
    torch.testing.assert_close(
        crosscoder.decode(codes)[1], expected / stored["scale"][:, None] + stored["mean"]
    )


def test_activations_are_those_of_the_models(pair: Pair) -> None:
    found = pair.activations(QUESTION)
    ids = torch.tensor([pair.tokenizer(QUESTION)["input_ids"]])
    for number, model in enumerate((pair.base, pair.chat)):
        hidden = model(ids, output_hidden_states=True).hidden_states[pair.layer + 1][0]
        torch.testing.assert_close(found.values[:, number], hidden.float(), rtol=2e-2, atol=2e-2)
    assert "".join(found.tokens).endswith(QUESTION)


def test_top_orders_by_strength(crosscoder: LoadedCrosscoder, pair: Pair) -> None:
    codes = crosscoder.encode(pair.activations(CHAT))
    top = crosscoder.top(codes, n=2)
    assert top.groupby("position").size().max() == 2
    assert (top.groupby("position").strength.diff().dropna() <= 0).all()
    strength = codes.values * crosscoder.module.code_weights()
    assert np.allclose(top.groupby("position").strength.max(), strength.amax(dim=1)[strength.amax(dim=1) > 0])
    row = top.iloc[0]
    assert row.token == codes.tokens[row.position]
    known = crosscoder.table().set_index("latent").loc[row.latent]
    assert row.norm_chat == known.norm_chat
    assert row["name"] == known["name"]


def test_every_column_of_the_table_is_described(crosscoder: LoadedCrosscoder) -> None:
    columns = crosscoder.columns().set_index("column")
    assert list(columns.index) == list(crosscoder.table().columns)
    assert columns.meaning.str.len().min() > 10
    assert columns.unit["nu_error"] == "ratio"
    assert columns.source["nu_error"] == "method.md 9"


def test_names_come_from_patterns(crosscoder: LoadedCrosscoder) -> None:
    table = crosscoder.table()
    assert set(table.named_by.dropna()) <= {"catalogue", "language model", "pattern"}
    assert table.name.notna().equals(table.named_by.notna())
    assert table.name.notna().any()


def test_contexts(crosscoder: LoadedCrosscoder) -> None:
    latent = int(crosscoder.table().sort_values("max_activation").latent.iloc[-1])
    contexts = crosscoder.contexts(latent, n=3)
    assert len(contexts) == 3
    assert contexts.peak.is_monotonic_decreasing
    assert contexts.peak[0] == pytest.approx(crosscoder.table().max_activation[latent], rel=1e-3)
    for row in contexts.itertuples():
        assert row.token in row.text
        assert len(row.tokens) == len(row.activations)
        assert row.tokens[int(np.argmax(row.activations))] == row.token


def test_steering(crosscoder: LoadedCrosscoder, pair: Pair) -> None:
    latent = int(crosscoder.table().sort_values("max_activation").latent.iloc[-1])
    unsteered = pair.answer(QUESTION, new_tokens=8)
    assert pair.steer(QUESTION, crosscoder, latent, strength=0.0, new_tokens=8) == unsteered
    assert pair.steer(QUESTION, crosscoder, latent, strength=50.0, new_tokens=8) != unsteered
    assert pair.answer(CHAT[:1], new_tokens=8) == unsteered
    assert isinstance(pair.ablate(QUESTION, crosscoder, latent, new_tokens=8), str)


def test_patching_all_latents_and_the_bias_is_everything(crosscoder: LoadedCrosscoder, pair: Pair) -> None:
    table = pair.patch(QUESTION, crosscoder, range(crosscoder.latents), new_tokens=8).set_index("variant")
    assert table.loc["none", "kl"] > 0
    assert table.loc["none", "reduction"] == 0
    assert (table.tokens == table.tokens.iloc[0]).all()
    assert table.reduction.equals(1 - table.kl / table.loc["none", "kl"])
    assert list(pair.patch(QUESTION, crosscoder, new_tokens=8).variant) == [
        name for name in table.index if name != "latents"
    ]


# Bad input: one line each.


def line_of(call) -> str:
    with pytest.raises(UserError) as raised:
        call()
    message = str(raised.value)
    assert "\n" not in message
    return message


def test_folder_without_a_crosscoder(layer: Path, tmp_path: Path) -> None:
    message = line_of(lambda: crossdiff.load(tmp_path))
    assert "found no crosscoder" in message and "weights.safetensors" in message
    message = line_of(lambda: crossdiff.load(layer))
    assert "crosscoders, name one" in message and "batchtopk/seed0" in message
    assert "weights.safetensors" in line_of(lambda: crossdiff.load(layer / "summary.json"))
    assert "not there" in line_of(lambda: crossdiff.load(tmp_path / "a/b/c"))
    assert "the hub does not give it" in line_of(lambda: crossdiff.load("nobody/nothing"))


def test_stale_crosscoder(finished: Checkout, tmp_path: Path) -> None:
    ours = finished.copy(tmp_path / "ours")
    training = ours.folder / "results/tiny/layer1/batchtopk/seed0"
    summary = training.parent.parent / "summary.json"
    summary.write_text(summary.read_text().replace('"skip_first"', ' "skip_first"'))
    message = line_of(lambda: crossdiff.load(training))
    assert "stale" in message and "summary.json" in message
    assert crossdiff.load(training, check=False).table() is not None
    (training / "weights.safetensors.record.json").unlink()
    assert "no record" in line_of(lambda: crossdiff.load(training))


def test_stale_table(finished: Checkout, tmp_path: Path) -> None:
    ours = finished.copy(tmp_path / "ours")
    training = ours.folder / "results/tiny/layer1/batchtopk/seed0"
    crosscoder = crossdiff.load(training)
    shutil.copy(training / "scaling.parquet", training / "betas.parquet")
    assert "was changed after it was made" in line_of(crosscoder.table)
    (training / "betas.parquet").unlink()
    assert "betas.parquet: not there" in line_of(crosscoder.table)


def test_copy_that_is_not_what_its_record_describes(layer: Path, tmp_path: Path) -> None:
    copied = shutil.copytree(layer / "batchtopk/seed0", tmp_path / "copied")
    assert crossdiff.load(copied).latents
    shutil.copy(layer / "l1/seed0/weights.safetensors", copied)
    assert "record" in line_of(lambda: crossdiff.load(copied))


def test_another_pair_and_another_width(crosscoder: LoadedCrosscoder, pair: Pair) -> None:
    found = pair.activations(QUESTION)
    other = replace(found, names=found.names._replace(chat="another"))
    assert "another" in line_of(lambda: crosscoder.encode(other))
    deeper = replace(found, layer=found.layer + 1)
    assert f"layer {found.layer + 1}" in line_of(lambda: crosscoder.encode(deeper))
    assert "shape" in line_of(lambda: crosscoder.encode(found.values[..., :-1]))
    assert "shape" in line_of(lambda: crosscoder.encode(found.values[:, 0]))
    assert "shape" in line_of(lambda: crosscoder.decode(torch.zeros(1, crosscoder.latents + 1)))


def test_latent_that_does_not_exist(crosscoder: LoadedCrosscoder, pair: Pair) -> None:
    allowed = f"whole numbers, 0 to {crosscoder.latents - 1}"
    assert allowed in line_of(lambda: crosscoder.contexts(crosscoder.latents))
    assert allowed in line_of(lambda: pair.steer(QUESTION, crosscoder, -1, 1.0))
    assert allowed in line_of(lambda: pair.patch(QUESTION, crosscoder, [crosscoder.latents]))


def test_no_pair(layer: Path, pair: Pair, tmp_path: Path) -> None:
    assert "found no layer" in line_of(lambda: crossdiff.Pair(tmp_path))
    assert "allowed: 1" in line_of(lambda: crossdiff.Pair(layer.parent, layer=2))
    assert "not empty" in line_of(lambda: pair.activations(""))
    for call in (pair.activations, pair.answer):
        assert "allowed: 1024 in all" in line_of(lambda call=call: call("word " * 100_000))
    assert "allowed: 1024 in all" in line_of(lambda: pair.answer("hello", new_tokens=1020))
    assert "whole numbers" in line_of(lambda: crossdiff.Pair(layer.parent, layer="1"))


@pytest.mark.parametrize(
    "chat", [[], "", [{"role": "wizard", "content": "hi"}], [{"role": "user"}], ["hi"], {"role": "user"}]
)
def test_what_is_no_chat(pair: Pair, chat: Any) -> None:
    line_of(lambda: pair.activations(chat))


def test_codes_of_another_crosscoder(crosscoder: LoadedCrosscoder, pair: Pair, layer: Path) -> None:
    other = crossdiff.load(layer / "batchtopk/seed1")
    codes = other.encode(pair.activations(QUESTION))
    for call in (crosscoder.top, crosscoder.decode):
        assert "batchtopk/seed1" in line_of(lambda call=call: call(codes))
    assert "allowed: what encode gives" in line_of(lambda: crosscoder.top(codes.values))


def test_activations_that_are_no_numbers(crosscoder: LoadedCrosscoder, pair: Pair) -> None:
    values = pair.activations(QUESTION).values
    values[2, 1, 0] = float("nan")
    assert "first at token 2" in line_of(lambda: crosscoder.encode(values))
    assert "allowed: Pair.activations or a tensor" in line_of(lambda: crosscoder.encode(values.numpy()))


@pytest.mark.parametrize("latent", ["3", 3.5, True, None, -1, 10**6])
def test_latent_that_is_no_number_of_one(crosscoder: LoadedCrosscoder, pair: Pair, latent: Any) -> None:
    for call in (
        lambda: crosscoder.contexts(latent),
        lambda: pair.steer(QUESTION, crosscoder, latent, 1.0),
        lambda: pair.patch(QUESTION, crosscoder, [latent]),
    ):
        assert line_of(call).startswith("latent: found")


@pytest.mark.parametrize("n", [0, -1, 2.5, "2"])
def test_number_of_rows_and_tokens(crosscoder: LoadedCrosscoder, pair: Pair, n: Any) -> None:
    codes = crosscoder.encode(pair.activations(QUESTION))
    assert line_of(lambda: crosscoder.top(codes, n)).startswith("n: found")
    assert line_of(lambda: crosscoder.contexts(3, n)).startswith("n: found")
    assert line_of(lambda: pair.answer(QUESTION, n)).startswith("new_tokens: found")
    assert line_of(lambda: pair.steer(QUESTION, crosscoder, 3, 1.0, n)).startswith("new_tokens: found")
    strength = float("nan")
    assert line_of(lambda: pair.steer(QUESTION, crosscoder, 3, strength)).startswith("strength: found")


def test_numpy_numbers_are_numbers(crosscoder: LoadedCrosscoder, pair: Pair) -> None:
    assert len(crosscoder.contexts(np.int64(3), np.int32(2))) <= 2
    latents = pd.Series([3, 5])
    assert "latents" in set(pair.patch(QUESTION, crosscoder, latents, new_tokens=4).variant)


def test_latent_that_never_fired_has_no_contexts(finished: Checkout, tmp_path: Path) -> None:
    training = finished.copy(tmp_path / "ours").folder / "results/tiny/layer1/batchtopk/seed0"
    examples = pd.read_parquet(training / "examples.parquet")
    examples[examples.latent != 3].to_parquet(training / "examples.parquet")
    contexts = crossdiff.load(training, check=False).contexts(3)
    assert contexts.empty and list(contexts) == ["peak", "text", "token", "tokens", "activations"]


def test_tensors_may_be_changed_and_differentiated(crosscoder: LoadedCrosscoder, pair: Pair) -> None:
    found = pair.activations(QUESTION)
    codes = crosscoder.encode(found)
    codes.values[:, 3] = 0
    decoded = crosscoder.decode(codes)
    decoded += 1
    weight = torch.ones(crosscoder.latents, requires_grad=True)
    (codes.values @ weight).sum().backward()
    assert weight.grad is not None and found.values.clone().requires_grad_(True).sum().backward() is None


def test_other_ways_to_the_same_folder(
    crosscoder: LoadedCrosscoder, pair: Pair, layer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dots, links and relative paths lead to the same results, also after the working folder has changed."""
    training = layer / "batchtopk/seed0"
    link = tmp_path / "link"
    link.symlink_to(training)
    found = [crossdiff.load(layer / "l1/../batchtopk/seed0"), crossdiff.load(link)]
    monkeypatch.chdir(training)
    found += [crossdiff.load("."), crossdiff.load("weights.safetensors"), crossdiff.load("../seed0")]
    same = crossdiff.Pair("../../..")
    monkeypatch.chdir(tmp_path)
    for other in found:
        assert other.folder.samefile(training)
        pd.testing.assert_frame_equal(other.table(), crosscoder.table())
        assert len(other.contexts(int(crosscoder.table().max_activation.argmax()), 1)) == 1
    assert same.names == pair.names


def test_folder_named_results_is_not_always_a_run(layer: Path, tmp_path: Path) -> None:
    copied = shutil.copytree(layer / "batchtopk/seed0", tmp_path / "results/mine/seed0")
    assert crossdiff.load(copied).latents
    for record in copied.glob("*.record.json"):
        record.unlink()
    assert "no record" in line_of(lambda: crossdiff.load(copied))
    assert crossdiff.load(copied, check=False).latents


@pytest.mark.parametrize("source", ["../typo", "a/..", "~nobody-here/x", "x" * 5000, 3])
def test_what_is_neither_a_path_nor_a_name(source: Any) -> None:
    line_of(lambda: crossdiff.load(source))


def test_damage_is_one_line_also_without_a_check(finished: Checkout, tmp_path: Path) -> None:
    ours = finished.copy(tmp_path / "ours")
    layer = ours.folder / "results/tiny/layer1"
    training = layer / "batchtopk/seed0"
    config = training / "config.json"
    config.write_text(config.read_text().replace('"crosscoder"', '"unheard-of"', 1))
    assert "code_normalisation: found unheard-of" in line_of(lambda: crossdiff.load(training, check=False))
    other = crossdiff.load(layer / "l1/seed0", check=False)
    (layer / "l1/seed0/betas.parquet").write_bytes(b"PAR1")
    assert "damaged" in line_of(other.table)
    (layer / "summary.json").write_text("{}")
    assert "not a summary" in line_of(lambda: crossdiff.Pair(layer.parent, check=False))
