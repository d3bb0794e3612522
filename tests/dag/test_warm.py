"""Pythons that start warm do what fresh ones do."""

import subprocess
import time

import pytest
from conftest import Checkout


@pytest.mark.parametrize(
    ("code", "ended", "printed"),
    [
        ("print(1)", 0, "1\n"),
        ("raise SystemExit(3)", 3, ""),
        ("raise SystemExit('no')", 1, "no\n"),
        (
            "import atexit; atexit.register(print, 'at exit'); 1 / 0",
            1,
            "ZeroDivisionError: division by zero\nat exit\n",
        ),
        ("import os; os.kill(os.getpid(), 9)", -9, ""),
        ("import threading; threading.Timer(0.2, print, ['late']).start()", 0, "late\n"),
        (
            "import os, sys; print(sys.argv[1:], os.getcwd() == sys.argv[1], os.environ['MORE'])",
            0,
            "['FOLDER'] True more\n",
        ),
        ("import crossdiff; print(crossdiff.__file__)", 0, "FOLDER/src/crossdiff/__init__.py\n"),
        ("import sys; print([name for name in sys.modules if name.startswith('crossdiff')])", 0, "[]\n"),
    ],
)
@pytest.mark.parametrize("fresh", [False, True])
def test_command_ends_and_prints_as_with_a_fresh_python(
    checkout: Checkout, fresh: bool, code: str, ended: int, printed: str
) -> None:
    result = checkout.run("-c", code, str(checkout.folder), fresh=fresh, MORE="more")
    assert result.returncode == ended
    assert result.stdout.replace(str(checkout.folder), "FOLDER").endswith(printed)


def test_command_may_start_others_and_tells_how_they_ended(checkout: Checkout) -> None:
    (checkout.folder / "script.py").write_text("import torch, sys; print(__name__, sys.argv); sys.exit(5)")
    code = (
        "import subprocess, sys; "
        "print(subprocess.run([sys.executable, 'script.py', 'x']).returncode, flush=True)"
    )
    assert checkout.run("-c", code).stdout == "__main__ ['script.py', 'x']\n5\n"


def test_command_that_takes_too_long_is_killed(checkout: Checkout) -> None:
    code = "import os, time; open('number', 'w').write(str(os.getpid())); time.sleep(60)"
    with pytest.raises(subprocess.TimeoutExpired):
        checkout.run("-c", code, timeout=3)
    number = (checkout.folder / "number").read_text()
    for _ in range(50):
        if not checkout.run("-c", f"import os; print(os.path.exists('/proc/{number}'))").stdout.startswith(
            "True"
        ):
            return
        time.sleep(0.1)
    pytest.fail("it still runs")


def test_other_settings_of_packages_get_a_fresh_python(checkout: Checkout) -> None:
    code = "import sys; print('snakemake' in sys.modules)"
    assert checkout.run("-c", code).stdout == "True\n"
    assert checkout.run("-c", code, OMP_NUM_THREADS="2").stdout == "False\n"
