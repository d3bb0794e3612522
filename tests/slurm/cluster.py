"""Run a SLURM cluster of several nodes on this machine, for tests.

    python tests/slurm/cluster.py start     three nodes, two of which have two pretended GPUs each
    python tests/slurm/cluster.py stop      ends every job and daemon and removes all files

It needs root, Debian, and the packages munge, slurmctld, slurmd and slurm-client. A second start brings
crashed daemons back.

Everything lies in one folder, listens on 127.0.0.1 only and has its own munge key. Only two links in
/etc/slurm are outside: job steps that Snakemake starts drop SLURM_CONF, so SLURM must find the cluster where
it looks first.
"""

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

FOLDER = Path("/var/tmp/crossdiff-slurm")
SYSTEM = Path("/etc/slurm")
PORT = 16817
HOST = socket.gethostname().partition(".")[0]
GPU_NODES = ("n1", "n2")
NODES = (*GPU_NODES, "n3")
SAVED_WITHIN = 6  # seconds; slurmctld saves a change after five at most
# In the order of stopping.
DAEMONS = {
    "slurmctld": ("slurmctld",),
    "slurmd": tuple(f"slurmd-{node}" for node in NODES),
    "munged": ("munged",),
}

SLURM_CONF = f"""\
ClusterName=lab
SlurmctldHost={socket.gethostname().partition(".")[0]}(127.0.0.1)
SlurmctldPort={PORT}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={FOLDER}/run/munge.sock,cred_expire=10
CredType=cred/munge
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
StateSaveLocation={FOLDER}/state
SlurmdSpoolDir={FOLDER}/state/%n
SlurmctldPidFile={FOLDER}/run/slurmctld.pid
SlurmdPidFile={FOLDER}/run/slurmd-%n.pid
SlurmctldLogFile={FOLDER}/log/slurmctld.log
SlurmdLogFile={FOLDER}/log/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=2
JobAcctGatherParams=OverMemoryKill
MpiDefault=none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=1,sched_interval=5,batch_sched_delay=0
PriorityType=priority/basic
GresTypes=gpu
SlurmdParameters=config_overrides
# A lost node is noticed soon, and its jobs start elsewhere after cred_expire.
SlurmdTimeout=10
SlurmctldTimeout=10
KillWait=10
ReturnToService=2
JobRequeue=1
InactiveLimit=0
# Finished jobs stay in squeue: Snakemake asks there.
MinJobAge=3600
AccountingStorageType=accounting_storage/none
NodeName=n[1-2] NodeHostname={HOST} NodeAddr=127.0.0.1 Port=[{PORT + 101}-{PORT + 102}] CPUs=4 \
RealMemory=16000 Gres=gpu:fake:2 State=UNKNOWN
NodeName=n3 NodeHostname={HOST} NodeAddr=127.0.0.1 Port={PORT + 103} CPUs=4 RealMemory=16000 State=UNKNOWN
PartitionName=cpu Nodes=n[1-3] Default=YES MaxTime=600 DefaultTime=5 State=UP
PartitionName=gpu Nodes=n[1-2] MaxTime=600 DefaultTime=5 State=UP
"""
GRES_CONF = f"""\
AutoDetect=off
NodeName=n[1-2] Name=gpu Type=fake Flags=nvidia_gpu_env File={FOLDER}/dev/gpu[0-1]
"""


def start() -> None:
    """Start every daemon that does not run. Raises RuntimeError with the logs if one takes too long."""
    _prepare()
    if not _runs("munged"):
        for leftover in FOLDER.glob("run/munge.sock*"):
            leftover.unlink()
        files = {
            "key-file": "munge/key",
            "socket": "run/munge.sock",
            "pid-file": "run/munged.pid",
            "log-file": "log/munged.log",
        }
        _run(
            "munged",
            "--force",
            *(f"--{name}={FOLDER / file}" for name, file in files.items()),
            f"--seed-file={FOLDER}/munge/seed",
        )
        _wait(lambda: _succeeds("munge", "-n", "-S", f"{FOLDER}/run/munge.sock"), 10, "munged")
    start_controller()
    for node in NODES:
        if not _runs(f"slurmd-{node}"):
            Path(FOLDER, "state", node).mkdir(exist_ok=True)
            _run("slurmd", "-N", node, "-f", f"{FOLDER}/slurm.conf")
    if not _until(_all_nodes_up, 10):
        _run("scontrol", "update", f"NodeName={','.join(NODES)}", "State=RESUME")
        _wait(_all_nodes_up, 30, "slurmd")


def start_controller() -> None:
    """Start slurmctld if it does not run."""
    if not _runs("slurmctld"):
        _run("slurmctld", "-f", f"{FOLDER}/slurm.conf")
        _wait(lambda: _succeeds("scontrol", "ping"), 30, "slurmctld")


def stop() -> None:
    """Cancel all jobs, end the daemons and remove all files. The controller ends first and misses no node."""
    if _runs("slurmctld") and _succeeds("scontrol", "ping"):
        _succeeds("scancel", "--user", "root")
        _until(lambda: not output("squeue", "-h", "-t", "R,PD,CG"), 30)
    for names in DAEMONS.values():
        for how in (signal.SIGTERM, signal.SIGKILL):
            for pid in filter(None, map(_pid, names)):
                os.kill(pid, how)
            if _until(lambda names=names: not any(map(_pid, names)), 10):
                break
    for name in ("slurm.conf", "gres.conf"):
        if (SYSTEM / name).is_symlink() and (SYSTEM / name).readlink().parent == FOLDER:
            (SYSTEM / name).unlink()
    shutil.rmtree(FOLDER, ignore_errors=True)


def kill_controller() -> None:
    """Kill slurmctld with -9 once it has saved which jobs run.

    If it forgot them, it would start them twice and drain the node.
    """
    time.sleep(SAVED_WITHIN)
    _kill(_pid("slurmctld"))
    _wait(lambda: not _runs("slurmctld"), 30, "end of slurmctld")


def crash(node: str) -> None:
    """What a power failure does to a node: slurmd and every process of its jobs are gone at once."""
    _kill(_pid(f"slurmd-{node}"))
    for job in output("squeue", "-h", "-t", "R", "-w", node, "-o", "%A").split():
        for pid in _pids_whose_command_starts(f"slurmstepd: [{job}."):
            for process in _tree(pid):
                _kill(process)


def output(*command: str) -> str:
    """Standard output of a command of SLURM. Raises CalledProcessError where it fails."""
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout


def _prepare() -> None:
    """Make folders, keys, pretended GPUs, the configuration and its links.

    Symbolic links to /dev/null are good enough as devices.
    """
    for name in ("run", "log", "state", "dev", "munge"):
        (FOLDER / name).mkdir(parents=True, exist_ok=True)
    for folder in (FOLDER, FOLDER / "run"):
        folder.chmod(0o755)
    (FOLDER / "munge").chmod(0o700)
    key = FOLDER / "munge/key"
    if not key.exists():
        key.touch(0o600)
        key.write_bytes(secrets.token_bytes(1024))
    for number in range(2):
        gpu = FOLDER / f"dev/gpu{number}"
        if not gpu.is_symlink():
            gpu.symlink_to("/dev/null")
    SYSTEM.mkdir(exist_ok=True)
    for name, text in (("slurm.conf", SLURM_CONF), ("gres.conf", GRES_CONF)):
        (FOLDER / name).write_text(text)
        link = SYSTEM / name
        if link.is_symlink() and link.readlink() == FOLDER / name:
            continue
        if link.exists() or link.is_symlink():
            raise RuntimeError(
                f"{link}: another SLURM is set up here; it is left alone, so there is no test cluster"
            )
        link.symlink_to(FOLDER / name)


def _all_nodes_up() -> bool:
    up = output("sinfo", "-h", "-N", "-t", "idle,mixed,allocated", "-o", "%N")
    return set(up.split()) == set(NODES)


def _pid(daemon: str) -> int | None:
    """Give the process id of a daemon that lives.

    A zombie has no command line. A later process with the same id has another one.
    """
    try:
        pid = int((FOLDER / f"run/{daemon}.pid").read_text())
        command = Path(f"/proc/{pid}/cmdline").read_text()
    except (OSError, ValueError):
        return None
    return pid if daemon.partition("-")[0] in command else None


def _runs(daemon: str) -> bool:
    return _pid(daemon) is not None


def _kill(pid: int | None) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return  # it ended by itself


def _pids_whose_command_starts(text: str) -> list[int]:
    return [
        int(path.parent.name)
        for path in Path("/proc").glob("[0-9]*/cmdline")
        if _command(path).startswith(text)
    ]


def _command(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def _tree(pid: int) -> list[int]:
    """A process and its descendants, children first."""
    try:
        children = [
            int(child)
            for task in Path(f"/proc/{pid}/task").glob("*/children")
            for child in task.read_text().split()
        ]
    except OSError:
        children = []
    return [descendant for child in children for descendant in _tree(child)] + [pid]


def _run(*command: str) -> None:
    # Daemons inherit the descriptors: a pipe would never be closed.
    log = FOLDER / "log/commands.log"
    with log.open("a") as file:
        if subprocess.run(command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, timeout=60).returncode:
            raise RuntimeError(f"{' '.join(command)} failed:\n{log.read_text()[-2000:]}")


def _succeeds(*command: str) -> bool:
    try:
        return subprocess.run(command, capture_output=True, timeout=10).returncode == 0
    except subprocess.TimeoutExpired:
        return False


def _until(condition: Callable[[], bool], seconds: float) -> bool:
    """Wait until it is true; give whether it came true in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


def _wait(condition: Callable[[], bool], seconds: float, what: str) -> None:
    if not _until(condition, seconds):
        logs = "\n".join(
            f"{path.name}:\n{path.read_text()[-1500:]}" for path in sorted((FOLDER / "log").iterdir())
        )
        raise RuntimeError(f"{what}: not there after {seconds} s\n{logs}")


if __name__ == "__main__":
    {"start": start, "stop": stop}[sys.argv[1]]()
