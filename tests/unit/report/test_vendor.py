"""Libraries that come with pages are the released ones, each with its licence."""

import re

from conftest import ROOT

from crossdiff.provenance.hashing import file_sha256

VENDOR = ROOT / "report/vendor"


def test_files_are_those_of_the_release() -> None:
    noted = {
        path: sha256
        for sha256, path in re.findall(
            r"^([0-9a-f]{64})  (\S+)$", (VENDOR / "README.md").read_text(), re.MULTILINE
        )
    }
    there = {path.relative_to(VENDOR).as_posix(): file_sha256(path) for path in VENDOR.glob("*/*")}
    assert there == noted


def test_every_library_has_a_version_and_a_licence() -> None:
    noted = re.findall(r"^## (\w+) \d+\.\d+\.\d+$", (VENDOR / "README.md").read_text(), re.MULTILINE)
    assert [name.lower() for name in noted] == sorted(path.name for path in VENDOR.iterdir() if path.is_dir())
    assert all((VENDOR / name.lower() / "LICENSE").exists() for name in noted)
