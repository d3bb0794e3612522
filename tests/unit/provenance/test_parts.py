"""A job that stands for several jobs leaves what they would leave: results, and a record for each."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from snakemake.iocontainers import InputFiles, OutputFiles, Params, Wildcards
from test_recording import folder, named, rule, run  # noqa: F401  # folder is a fixture for every test

from crossdiff.provenance import recording
from crossdiff.provenance.parts import Part
from crossdiff.provenance.records import read_record, record_path
from crossdiff.provenance.storage import atomic_path, record_mark


def together(**changes) -> SimpleNamespace:
    """A job that makes what two jobs of tokenise would make, from a file each and one that both read."""
    parts = [
        Part(
            "tokenise",
            {"layer": number},
            {"settings": {"pair.layer": int(number)}, "code": "of the plan"},
            [("shared", "a.txt"), ("own", own)],
            [("", f"out/{number}.txt")],
        )
        for number, own in (("8", "b.txt"), ("13", "c.txt"))
    ]
    Path("c.txt").write_text("c.txt")
    return rule(
        rule="both",
        input=named(InputFiles, shared="a.txt", own=["b.txt", "c.txt"]),
        output=OutputFiles(["out/8.txt", "out/13.txt"]),
        params=Params(fromdict={"stands_for": parts} | changes),
        wildcards=Wildcards(fromdict={}),
    )


def alone(number: str, own: str) -> SimpleNamespace:
    """The job of tokenise that makes one of these files."""
    return rule(
        input=named(InputFiles, shared="a.txt", own=own),
        output=OutputFiles([f"out/{number}.txt"]),
        params=Params(fromdict={"settings": {"pair.layer": int(number)}, "code": "of the plan"}),
        wildcards=Wildcards(fromdict={"layer": number}),
    )


def write_marked(*numbers: str) -> None:
    for number in numbers:
        output = f"out/{number}.txt"
        with atomic_path(output) as path:
            path.write_text(f"{number} {record_mark(output)['crossdiff-record']}")


def test_each_part_has_the_record_and_the_bytes_that_its_own_job_gives():
    run(together(), lambda: write_marked("8", "13"))
    both = {
        number: (read_record(f"out/{number}.txt"), Path(f"out/{number}.txt").read_bytes())
        for number in ("8", "13")
    }
    for number, own in (("8", "b.txt"), ("13", "c.txt")):
        run(alone(number, own), lambda number=number: write_marked(number))
        record = read_record(f"out/{number}.txt")
        outputs = [entry._replace(stamp="") for entry in record.outputs]
        found, written = both[number]
        assert found._replace(run={}, outputs=[]) == record._replace(run={}, outputs=[])
        assert [entry._replace(stamp="") for entry in found.outputs] == outputs
        assert found.run.keys() == record.run.keys()
        assert written == Path(f"out/{number}.txt").read_bytes()
    assert both["8"][0].id != both["13"][0].id


def test_job_with_several_records_has_to_name_the_output():
    def script() -> None:
        write_marked("8", "13")
        with pytest.raises(KeyError):
            record_mark()

    run(together(), script)


def test_part_that_is_not_written_leaves_no_record_at_all():
    with pytest.raises(recording.UserError, match=r"^out/13\.txt: no such file"):
        run(together(), lambda: write_marked("8"))
    assert not record_path("out/8.txt").exists()
