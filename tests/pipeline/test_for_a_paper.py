"""What a finished run gives for a paper: tables as LaTeX, methods, and Snakemake's own report."""

import csv
import re
import zipfile
from pathlib import Path

import pytest
from conftest import TINY, Checkout
from helpers_latex import check_cells, faults

from crossdiff.provenance.records import embedded_id, read_record

LAYER = "results/tiny/layer1"


def read(finished: Checkout, path: str) -> str:
    return (finished.folder / LAYER / path).read_text(encoding="utf-8")


def test_every_table_is_latex_too_with_the_cells_of_the_file(finished: Checkout) -> None:
    tables = sorted((finished.folder / LAYER / "tables").glob("*.csv"))
    typeset = [path for path in tables if path.with_suffix(".tex").exists()]
    assert {path.stem for path in tables} - {path.stem for path in typeset} == {"names"}  # of the catalogue
    for path in typeset:
        check_cells(path)


@pytest.mark.parametrize(
    "said",
    [
        "The base model is tiny-base (random weights). The chat model is tiny-chat (fine-tuned by this run).",
        "It was fine-tuned on requests (4,000 tokens); 1 epoch; learning rate 0.003",
        "Activations are the outputs of block 1 (0-based) of 3 blocks, of width 32.",
        r"\texttt{readme} (documents, local files) gives 6,000 training and 1,000 held-out tokens.",
        r"\texttt{batchtopk}~\cite{minder2025overcoming,bussmann2024batchtopk} and 128 latents, \texttt{k} 8",
        r"\texttt{l1}~\cite{lindsey2024sparse} and 96 latents, \texttt{l1\_coefficient} 0.05",
        "Training takes 100 steps of 256 pairs of activations",
        "With seeds 0 and 1, L0 on held-out tokens is",
        "by a bootstrap with 200 draws of 50 blocks of documents (seed 0).",
        "have a record, and by their records they agree.",
        "(generation, harvest, head, patching and steering): the largest relative difference is",
        r"No record says where the local files of \texttt{readme} come from;",
    ],
)
def test_methods_say_what_the_run_recorded(said: str, finished: Checkout) -> None:
    text = read(finished, "paper/methods.tex")
    assert not faults(text)
    assert said in " ".join(text.split())


def test_methods_have_the_l0_of_the_table(finished: Checkout) -> None:
    with (finished.folder / LAYER / "tables/crosscoders.csv").open(newline="") as file:
        l0 = [f"{float(row['l0']):.1f}" for row in csv.DictReader(file) if row["crosscoder"] == "l1"]
    said = " ".join(read(finished, "paper/methods.tex").split())
    assert f"is {l0[0].removesuffix('.0')} and {l0[1].removesuffix('.0')}." in said


def test_bibliography_has_what_the_methods_cite_and_no_more_than_the_run_used(finished: Checkout) -> None:
    cited = re.findall(r"\\cite{([^}]+)}", read(finished, "paper/methods.tex"))
    keys = {key for group in cited for key in group.split(",")}
    assert set(re.findall(r"^@\w+{(.+),$", read(finished, "paper/references.bib"), re.MULTILINE)) == keys


def test_versions_are_those_of_the_records(finished: Checkout) -> None:
    packages = read_record(finished.folder / LAYER / "pair.json").run["packages"]
    with (finished.folder / LAYER / "paper/versions.csv").open(newline="") as file:
        found = {row["package"]: row["version"] for row in csv.DictReader(file)}
    assert found.pop("python") and found == packages


@pytest.mark.parametrize("path", ["paper/methods.tex", "paper/references.bib", "tables/twins.tex"])
def test_copy_of_a_file_still_names_its_record(path: str, finished: Checkout) -> None:
    file = finished.folder / LAYER / path
    assert embedded_id(file) == read_record(file).id


def test_archive_of_snakemakes_report_holds_every_figure_table_and_page(
    finished: Checkout, tmp_path: Path
) -> None:
    archive = tmp_path / "archive.zip"
    result = finished.snakemake("--report", str(archive), "--configfile", TINY)
    assert result.returncode == 0, result.stdout
    assert "downloading" not in result.stdout  # works without a network
    with zipfile.ZipFile(archive) as packed:
        names = sorted(Path(name).name for name in packed.namelist())
        page = packed.read("archive/report.html").decode()
    results = finished.folder / "results/tiny"
    shown = [*results.rglob("*.svg"), *results.glob("layer1/tables/*.csv"), results / "first_look.html"]
    assert names == sorted([*(path.name for path in shown), "index.html", "report.html"])
    for path in shown:
        assert path.relative_to(finished.folder).as_posix() in page, path
    assert not re.findall(r'(?:src|href)="https?:', page)
