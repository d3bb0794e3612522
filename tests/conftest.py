"""Shared by all tests: the repository, and Snakemake as a user runs it."""

import fcntl
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import warm
import yaml

if TYPE_CHECKING:
    from playwright.sync_api import Browser

# Tests run side by side, and each computes little. More threads would only wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"
READ_AT_IMPORT = warm.read_at_import(dict(os.environ))  # as the warm Pythons have it

ROOT = Path(__file__).parent.parent
# What a run reads: enough to copy a checkout without its results.
TREE = (
    "CITATION.cff Snakefile config.yaml configs data envs profiles report rules slurm src tests/data "
    "workflow_scripts"
).split()
TINY = "configs/tiny.yaml"
TRACING = ROOT / "tests/tracing"  # a sitecustomize.py: notes which settings each script reads


def pytest_configure(config: pytest.Config) -> None:
    """Start the warm Pythons, one set for all workers of pytest-xdist."""
    if config.option.markexpr != "gpu":
        # Triton reads this when it is imported. Kernels then run as Python where a test asks for them.
        os.environ.setdefault("TRITON_INTERPRET", "1")
        import hypothesis  # a Python for tests on a GPU may lack it

        # How long an example takes says nothing where other tests run at the same time.
        hypothesis.settings.register_profile("untimed", deadline=None)
        hypothesis.settings.load_profile("untimed")
    if not hasattr(config, "workerinput"):
        folder = os.environ["CROSSDIFF_WARM"] = tempfile.mkdtemp(prefix="warm-")
        servers = warm.start(folder)
        config.add_cleanup(lambda: (warm.stop(servers), shutil.rmtree(folder)))


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Tests marked ``gpu`` are skipped where there is none."""
    if item.get_closest_marker("gpu"):
        import torch

        if not torch.cuda.is_available():
            pytest.skip("no GPU that torch can use")


class Checkout:
    """A copy of the repository in which Snakemake runs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        if folder.exists():
            return
        for name in TREE:
            source, target = ROOT / name, folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            if source.is_dir():
                shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
            else:
                shutil.copy2(source, target)

    def copy(self, folder: Path) -> "Checkout":
        """Make a copy with results and all that Snakemake remembers; modification times stay."""
        return Checkout(shutil.copytree(self.folder, folder, symlinks=True))

    def changed(self, config: str, changes: dict[str, object], name: str = "changed") -> str:
        """Write a copy of a config file with other values under dotted keys, None for left out; give its
        path.
        """
        values = yaml.safe_load((self.folder / config).read_text())
        for key, value in changes.items():
            *parents, leaf = key.split(".")
            section = values
            for parent in parents:
                section = section.setdefault(parent, {})
            if value is None:
                section.pop(leaf, None)
            else:
                section[leaf] = value
        (self.folder / f"configs/{name}.yaml").write_text(yaml.safe_dump(values))
        return f"configs/{name}.yaml"

    def edit(self, path: str, old: str, new: str) -> None:
        """Replace the first ``old`` in a file by ``new``. A text that is not there fails the test."""
        file = self.folder / path
        text = file.read_text()
        assert old in text, f"{path} has no {old!r}"
        file.write_text(text.replace(old, new, 1))

    def snakemake(self, *arguments: str, timeout: int = 600) -> subprocess.CompletedProcess[str]:
        """Run Snakemake with the library of this copy; standard error is merged into ``stdout``."""
        return self.run("-m", "snakemake", *arguments, timeout=timeout)

    def pending(self, config: str = TINY) -> dict[str, str]:
        """{output: Snakemake's reason} for all that it would make now; empty when nothing is to be done."""
        result = self.snakemake("--detailed-summary", "--configfile", config)
        assert result.returncode == 0, result.stdout
        rows = [line.split("\t") for line in result.stdout.splitlines() if line.count("\t") == 7]
        return {row[0]: row[6] for row in rows[1:] if row[7] == "update pending"}

    def crossdiff(self, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run the crossdiff command."""
        return self.run(
            "-c", "import sys; from crossdiff.cli import main; sys.exit(main())", *arguments, **options
        )

    def run(
        self, *arguments: str, timeout: int = 600, fresh: bool = False, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """Run Python with the library of this copy.

        ``fresh`` starts a new Python, which imports every package itself, as a user's does.
        """
        paths = [
            str(self.folder / "src"),
            *filter(None, [environment.pop("PYTHONPATH", None), os.environ.get("PYTHONPATH")]),
        ]
        variables = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "HF_HUB_OFFLINE": "1"} | environment
        if not fresh and warm.read_at_import(variables) == READ_AT_IMPORT:
            return self._run_warm(list(arguments), timeout, variables)
        return subprocess.run(
            [sys.executable, *arguments],
            cwd=self.folder,
            env=variables,
            text=True,
            timeout=timeout,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )

    def _run_warm(
        self, arguments: list[str], timeout: int, variables: dict[str, str]
    ) -> subprocess.CompletedProcess[str]:
        with tempfile.TemporaryFile("w+") as output, Path(os.devnull).open() as nothing:
            descriptors = (nothing.fileno(), output.fileno(), output.fileno())
            try:
                code = warm.Command(
                    os.environ["CROSSDIFF_WARM"], arguments, str(self.folder), variables, descriptors, timeout
                ).wait()
            except TimeoutError:
                raise subprocess.TimeoutExpired(arguments, timeout) from None
            output.seek(0)
            return subprocess.CompletedProcess(arguments, code, output.read())


def planned(output: str) -> dict[str, int]:
    """{rule: number of jobs} from the table of a dry-run; empty when nothing is to be done."""
    table = re.search(r"^job\s+count\n-.*?\n(.*?)^total", output, re.DOTALL | re.MULTILINE)
    rows = re.findall(r"^(\w+)\s+(\d+)$", table[1], re.MULTILINE) if table else []
    return {name: int(count) for name, count in rows}


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path / "checkout")


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """A finished run of the tiny config. Tests leave it alone: they plan in it, and change copies of it."""
    return once(tmp_path_factory, "tiny", run_tiny)


@pytest.fixture
def ours(finished: Checkout, tmp_path: Path) -> Checkout:
    """A copy of the finished run that a test may change and damage."""
    return finished.copy(tmp_path / "ours")


@pytest.fixture(scope="module")
def chromium() -> Iterator["Browser"]:
    """A browser for pages that open from disk."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright: make install")
    path = shutil.which("chromium")
    if path is None:
        pytest.skip("needs Debian's chromium: make test-browser")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(autouse=True)
def close_figures() -> Iterator[None]:
    """Close the figures that a test has drawn."""
    yield
    if pyplot := sys.modules.get("matplotlib.pyplot"):
        pyplot.close("all")


def run_tiny(checkout: Checkout) -> None:
    (checkout.folder / "trace").mkdir()
    arguments = ("-m", "snakemake", "--configfile", TINY)
    result = checkout.run(*arguments, PYTHONPATH=str(TRACING), CROSSDIFF_TRACE=str(checkout.folder / "trace"))
    assert result.returncode == 0, result.stdout
    assert "The report is at" in result.stdout
    assert "The first look is at results/tiny/first_look.html" in result.stdout


def once(factory: pytest.TempPathFactory, name: str, make: Callable[[Checkout], None]) -> Checkout:
    """Give a checkout in which ``make`` ran once for all workers of pytest-xdist.

    Each worker gets a copy to plan in.
    """
    if "PYTEST_XDIST_WORKER" not in os.environ:
        checkout = Checkout(factory.mktemp(name) / "checkout")
        make(checkout)
        return checkout
    shared = factory.getbasetemp().parent / name
    shared.mkdir(exist_ok=True)
    with (shared / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        whole = shared / "checkout"
        if not whole.exists():
            checkout = Checkout(shared / "begun")
            make(checkout)
            checkout.folder.rename(whole)
    return Checkout(whole).copy(factory.mktemp(name) / "checkout")
