"""All about the package stands in pyproject.toml, but for what lies outside ``src/``.

A wheel holds that in ``crossdiff/shipped/``, so that ``crossdiff run`` needs no checkout
(``crossdiff.provenance.code.ROOT``).
"""

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

SHIPPED = "CITATION.cff Snakefile configs data envs profiles report rules slurm workflow_scripts".split()


def shipped() -> list[str]:
    """Every file that a run reads, as a path in the checkout."""
    found = [path for name in SHIPPED for path in (Path(name), *Path(name).rglob("*"))]
    return sorted(str(path) for path in found if path.is_file() and path.suffix != ".pyc")


class WithWorkflow(build_py):
    """Build the library, and copy what a run reads into it."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            for path in shipped():
                target = Path(self.build_lib, "crossdiff/shipped", path)
                self.mkpath(str(target.parent))
                self.copy_file(path, str(target))

    def get_source_files(self) -> list[str]:
        """What an sdist holds, so that a wheel can be built from it."""
        return [*super().get_source_files(), *shipped()]


setup(cmdclass={"build_py": WithWorkflow})
