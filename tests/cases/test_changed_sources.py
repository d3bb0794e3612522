"""Sources that change: which shards and caches are made again."""

import json
import re
from pathlib import Path

from conftest import TINY, Checkout, planned
from helpers_texts import prose, write_jsonl

from crossdiff.texts.counts import read_counts
from crossdiff.texts.splits import document_id, in_split


def corpus_run(checkout: Checkout) -> tuple[str, Path, list[str]]:
    """Harvest a data set of 3 training shards from a folder of 2 files: the config, a file and its texts."""
    folder = checkout.folder / "corpus"
    folder.mkdir()
    texts = [prose(50, seed) for seed in range(120)]
    write_jsonl(folder / "a.jsonl", texts[:60])
    write_jsonl(folder / "b.jsonl", texts[60:])
    changes = {"files": ["corpus"], "tokens": 6000, "validation_tokens": 400}
    config = checkout.changed(
        TINY,
        {"tokens.shard": 2000, "tokens.unusable": 0.2}
        | {f"datasets.readme.{key}": value for key, value in changes.items()},
    )
    result = checkout.snakemake("activations", "--configfile", config)
    assert result.returncode == 0, result.stdout
    return config, folder / "a.jsonl", texts


def place(checkout: Checkout, shard: int) -> dict:
    path = checkout.folder / f"results/tokens/tiny-chat/readme.train/{shard:04d}.next.json"
    return json.loads(path.read_text())


def jobs(printed: str) -> list[str]:
    """Give the jobs of a run that tokenise and harvest, by what they make."""
    return sorted(re.findall(r"(?:Tokenising|Harvesting) .*", printed))


def test_changed_text_makes_new_caches_of_its_shard_only(checkout):
    config, path, texts = corpus_run(checkout)
    fraction = 0.2  # of the tiny config
    first, last = place(checkout, 0)["text"], place(checkout, 1)["text"]
    training = [
        number for number in range(first, last) if in_split(document_id(texts[number]), "train", fraction)
    ]
    assert last < 60 and len(training) > 3
    number = training[1]
    texts[number] = next(
        text
        for end in ("!", "?", ";", ":", "*", "+")
        if in_split(document_id(text := texts[number] + end), "train", fraction)
    )
    before = {number: place(checkout, number) for number in range(3)}
    write_jsonl(path, texts[:60])
    printed = checkout.snakemake("activations", "--dry-run", "--configfile", config).stdout
    expected = {"tokenise": 4, "check_texts": 2, "harvest_activations": 8, "activations": 1}
    assert planned(printed) == expected
    assert "4 token shards are tokenised again" in printed and "fewer jobs may run" in printed
    result = checkout.snakemake("activations", "--configfile", config)
    assert result.returncode == 0, result.stdout
    assert jobs(result.stdout) == [
        "Harvesting tiny-base: readme, train shard 0001",
        "Harvesting tiny-chat: readme, train shard 0001",
        "Tokenising readme, train shard 0000",
        "Tokenising readme, train shard 0001",
        "Tokenising readme, train shard 0002",
        "Tokenising readme, validation shard 0000",
    ]
    assert place(checkout, 0) == before[0]
    assert place(checkout, 1) == before[1] | {"offset": before[1]["offset"] + 1}
    assert not planned(checkout.snakemake("activations", "--dry-run", "--configfile", config).stdout)
    audit = checkout.crossdiff("audit", "--all", "--configfile", config)
    assert audit.returncode == 0 and "verified" in audit.stdout, audit.stdout
    # A record that can't be used comes into the file, and is taken out again. No token changes.
    for line, skipped in (("no JSON\n", 1), ("", 0)):
        path.write_text(line + path.read_text().removeprefix("no JSON\n"))
        result = checkout.snakemake("activations", "--configfile", config)
        assert result.returncode == 0, result.stdout
        assert len(jobs(result.stdout)) == 4 and not re.search("^Harvesting", result.stdout, re.M)
        read = [
            read_counts(place) for place in (checkout.folder / "results/tokens").rglob("readme.*/*.next.json")
        ]
        assert sum(counts["skipped"].get("a line that is not JSON", 0) for counts in read) == skipped
        assert not planned(checkout.snakemake("activations", "--dry-run", "--configfile", config).stdout)

    # A file that comes into the folder is read, too.
    write_jsonl(path.with_name("0.jsonl"), ["first of all"])
    printed = checkout.snakemake("activations", "--dry-run", "--configfile", config).stdout
    assert planned(printed)["tokenise"] == 4
    path.with_name("0.jsonl").unlink()
    (path.parent / "notes.md").write_text("not read")
    assert not planned(checkout.snakemake("activations", "--dry-run", "--configfile", config).stdout)
    # A folder that holds nothing to read is named before any job.
    for name in ("a", "b"):
        (path.parent / f"{name}.jsonl").unlink()
    result = checkout.snakemake("activations", "--dry-run", "--configfile", config)
    assert result.returncode == 1
    assert "config: datasets.readme.files: found corpus, a folder without files" in result.stdout
