"""What ``snakemake --report`` shows: every table, figure and page, each in a part of the menu, with words."""

import json
import re
from pathlib import PurePosixPath

import pytest
from conftest import ROOT, Checkout

from crossdiff.results.described import files
from crossdiff.workflow import snakemake_report

# Tells of every output whether it is shown, and how.
TELL = """
from json import dumps
from snakemake.io import get_flag_value, is_flagged
from snakemake.iocontainers import Wildcards

def told(rule, output):
    if not is_flagged(output, "report"):
        return None
    shown = get_flag_value(output, "report")
    caption = workflow.sourcecache.open(shown.caption).read()
    return [shown.category, shown.subcategory, callable(shown.labels), caption]

Path("shown.json").write_text(
    dumps([[rule.name, str(output), told(rule, output)] for rule in workflow.rules for output in rule.output])
)
"""
TO_SHOW = re.compile(r".*/(tables/[^/]+\.csv|figures/[^/]+\.svg|first_look/layers\.svg|[^/]+\.html)")
NOT_ALONE = "report/latents/index.html"  # the latent browser's page needs its folder next to it
CONFIGS = ("tiny", "tiny-pairs", "planted-tiny", "organisms-tiny")


@pytest.mark.parametrize("config", CONFIGS)
def test_every_table_figure_and_page_has_a_category_labels_and_a_caption(
    config: str, checkout: Checkout
) -> None:
    with (checkout.folder / "Snakefile").open("a") as file:
        file.write(TELL)
    result = checkout.snakemake("--dry-run", "--quiet", "--configfile", f"configs/{config}.yaml")
    assert result.returncode == 0, result.stdout
    outputs = json.loads((checkout.folder / "shown.json").read_text())
    expected = {output for _, output, _ in outputs if TO_SHOW.fullmatch(output)}
    expected = {output for output in expected if not output.endswith(NOT_ALONE)}
    assert {output for _, output, shown in outputs if shown} == expected and len(expected) > 10
    for rule, output, shown in outputs:
        if shown:
            category, place, has_labels, caption = shown
            kind = {".csv": "Tables", ".svg": "Figures", ".html": "Pages"}[PurePosixPath(output).suffix]
            assert (category, has_labels) == (kind, True) and place and caption, (rule, output)


@pytest.mark.parametrize(
    "file", [path for file in files() for path in file.patterns if path.endswith(".csv")]
)
def test_words_of_a_table_hold_nothing_that_snakemake_would_fill(file: str) -> None:
    wildcards = dict.fromkeys(re.findall(r"{(\w+)}", file), "a")
    assert not re.search("[{}]", snakemake_report.labels(file, wildcards)["shows"])


@pytest.mark.parametrize(
    ("pattern", "place"),
    [
        ("results/{pair}/layer{layer}/figures/{figure}.svg", "{pair}, layer {layer}"),
        ("results/{pair}/first_look.html", "{pair}"),
        ("results/overview/tables/pairs.csv", "all pairs"),
    ],
)
def test_place_in_the_menu(pattern: str, place: str) -> None:
    assert snakemake_report.subcategory(pattern) == place


def test_page_that_is_called_index_has_the_name_of_its_folder() -> None:
    labels = snakemake_report.labels(
        "results/{pair}/layer{layer}/report/index.html", {"pair": "p", "layer": "3"}
    )
    assert labels == {"page": "report", "shows": "The report, one page that opens from disk."}


def test_every_caption_is_used() -> None:
    rules = "".join(path.read_text() for path in (ROOT / "rules").glob("*.smk"))
    known = {category.lower().removesuffix("s") for category, _ in snakemake_report.KINDS.values()}
    for path in (ROOT / "report/captions").iterdir():
        assert path.stem in known or f'"../report/captions/{path.name}"' in rules
