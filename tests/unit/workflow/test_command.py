"""What the command says of itself, and where there is nothing to say."""

from importlib.metadata import version
from pathlib import Path

import pytest

from crossdiff.cli import main


def test_version_is_the_packages(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"crossdiff {version('crossdiff')}\n"


def test_audit_of_a_folder_without_results_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["audit", "--all"]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err == f"error: {tmp_path}/results: no results here; run this in the checkout that has them\n"
