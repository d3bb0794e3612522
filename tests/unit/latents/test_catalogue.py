"""The catalogue: what is read, checked, flagged and refused."""

from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml
from safetensors.torch import save_file

from crossdiff.errors import UserError
from crossdiff.latents.catalogue import (
    COLUMNS,
    DIGITS,
    check,
    current,
    read_catalogue,
    read_names,
    weights_digest,
)
from crossdiff.provenance.storage import write_csv

OURS, OTHERS = "0123456789ab", "ba9876543210"
DIGESTS = {("batchtopk", 0): OURS, ("l1", 0): OURS}
LATENTS = {("batchtopk", 0): 10, ("l1", 0): 5}


def entry(**changes: object) -> dict[str, object]:
    return {"crosscoder": "batchtopk", "seed": 0, "weights": OURS, "latent": 3, "name": "refusals"} | changes


def written(folder: Path, *entries: dict[str, object]) -> Path:
    path = folder / "names.yaml"
    path.write_text(yaml.safe_dump({"latents": list(entries)}))
    return path


def test_names_survive_the_table_and_stale_ones_are_left_out(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        entry(),
        entry(latent=4, name="NA", note="007"),
        entry(latent=5, weights=OTHERS),
        entry(crosscoder="l1"),
    )
    rows = check(path, DIGESTS, LATENTS)
    assert [row["stale"] for row in rows] == [False, False, True, False]
    write_csv(tmp_path / "names.csv", pd.DataFrame(rows, columns=list(COLUMNS)))
    names = read_names(tmp_path / "names.csv")
    assert current(names, "batchtopk", 0) == {3: "refusals", 4: "NA"}
    assert current(names, "l1", 0) == {3: "refusals"}
    assert current(names, "l1", 1) == {}
    assert names.note.tolist() == ["", "007", "", ""]
    assert names[names.stale].latent.tolist() == [5]


def test_no_catalogue_and_an_empty_one_name_nothing(tmp_path: Path) -> None:
    assert current(read_names(None), "l1", 0) == {}
    assert read_names(None)[read_names(None).stale].empty
    write_csv(
        tmp_path / "names.csv",
        pd.DataFrame(check(written(tmp_path), DIGESTS, LATENTS), columns=list(COLUMNS)),
    )
    names = read_names(tmp_path / "names.csv")
    assert current(names, "l1", 0) == {}
    assert names[names.stale].empty


def test_one_latent_may_have_a_current_and_a_stale_name(tmp_path: Path) -> None:
    rows = check(written(tmp_path, entry(), entry(weights=OTHERS, name="old")), DIGESTS, LATENTS)
    assert [(row["name"], row["stale"]) for row in rows] == [("refusals", False), ("old", True)]


def test_latent_out_of_range_is_an_error_in_these_weights_and_stale_in_others(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"names.yaml: latents.1.latent: found 5, allowed in l1: 0 to 4$"):
        check(written(tmp_path, entry(), entry(crosscoder="l1", latent=5)), DIGESTS, LATENTS)
    [row] = check(written(tmp_path, entry(crosscoder="l1", latent=5, weights=OTHERS)), DIGESTS, LATENTS)
    assert row["stale"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"crosscoder": "l2"}, "latents.0: found l2 seed 0, allowed: batchtopk seed 0, l1 seed 0"),
        ({"seed": 1}, "latents.0: found batchtopk seed 1, allowed: batchtopk seed 0, l1 seed 0"),
        ({"latent": -1}, "latents.0.latent: found -1"),
        ({"latent": "3"}, "latents.0.latent: found '3' (text)"),
        ({"weights": "abc"}, "latents.0.weights: found 'abc' (text)"),
        ({"weights": 123456789012}, "latents.0.weights: found 123456789012 (integer)"),
        ({"name": ""}, "latents.0.name: found ''"),
        ({"nmae": "x"}, "latents.0.nmae: unknown key; did you mean name?"),
    ],
)
def test_bad_entry_is_one_clear_line(tmp_path: Path, change: dict[str, object], message: str) -> None:
    with pytest.raises(UserError) as error:
        read_catalogue(written(tmp_path, entry(**change)), DIGESTS)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_second_name_of_a_latent_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"latents\.1: latent 3 of batchtopk seed 0 has a name already"):
        read_catalogue(written(tmp_path, entry(), entry(name="other")), DIGESTS)


@pytest.mark.parametrize("text", ["latents: [", "- just a list", "", "\x00"])
def test_file_that_is_no_catalogue_is_one_clear_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "names.yaml").write_text(text)
    with pytest.raises(UserError, match=r"names\.yaml: ") as error:
        read_catalogue(tmp_path / "names.yaml", DIGESTS)
    assert "\n" not in str(error.value)
    with pytest.raises(UserError, match=r"missing\.yaml: can't be read \(No such file"):
        read_catalogue(tmp_path / "missing.yaml", DIGESTS)


def test_digest_is_of_the_tensors_alone(tmp_path: Path) -> None:
    tensors = {"decoder": torch.arange(6.0)}
    save_file(tensors, tmp_path / "a", metadata={"record": "one"})
    save_file(tensors, tmp_path / "b", metadata={"record": "another, and longer"})
    save_file({"decoder": torch.arange(6.0) + 1}, tmp_path / "c", metadata={"record": "one"})
    assert weights_digest(tmp_path / "a") == weights_digest(tmp_path / "b") != weights_digest(tmp_path / "c")
    assert len(weights_digest(tmp_path / "a")) == DIGITS
