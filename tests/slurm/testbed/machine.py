"""What the testbed takes from this machine: packages, free ports, a marked line in /etc/hosts."""

import fcntl
import os
import random
import shutil
import socket
import subprocess
from pathlib import Path

from tests.slurm.testbed.configuration import NODES

PACKAGES = ("slurmctld", "slurmd", "slurm-client", "munge")
PROGRAMS = ("slurmctld", "slurmd", "sbatch", "srun", "munged")
SYSTEM_PATH = "/usr/local/sbin:/usr/sbin:/sbin"  # not on every PATH; the daemons are there
HOSTS = Path("/etc/hosts")
PORTS = range(10000, 20000)  # below those that the kernel hands out to clients


def environment() -> dict[str, str]:
    """This process's variables with the daemons on the PATH, and no other cluster's settings."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("SLURM")}
    return {**kept, "PATH": f"{os.environ.get('PATH', os.defpath)}:{SYSTEM_PATH}"}


def missing() -> list[str]:
    """What keeps the testbed from starting here, each with its remedy; [] if nothing does."""
    faults = []
    if os.geteuid() != 0:
        faults.append("root is needed (the nodes start jobs, and /etc/hosts must name them)")
    path = environment()["PATH"]
    absent = [program for program in PROGRAMS if shutil.which(program, path=path) is None]
    if absent:
        faults.append(
            f"{', '.join(absent)} not found; install them (on Debian or Ubuntu: `apt-get install "
            f"--no-install-recommends {' '.join(PACKAGES)}`, which `up --install` does)"
        )
    return faults


def can_install() -> bool:
    """Whether `install` may work: root, with apt."""
    return os.geteuid() == 0 and shutil.which("apt-get") is not None


def install() -> None:
    """Install the distribution's SLURM packages; their system services are not left running.

    Raises subprocess.CalledProcessError if apt-get fails; its messages go to stderr.
    """
    quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    had_munge = shutil.which("munged", path=environment()["PATH"]) is not None
    for command in (
        ["apt-get", "update", "-qq"],
        ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *PACKAGES],
    ):
        subprocess.run(command, env=quiet, stdout=subprocess.DEVNULL, check=True)
    if Path("/run/systemd/system").exists():
        services = ["slurmctld", "slurmd", *([] if had_munge else ["munge"])]
        subprocess.run(["systemctl", "disable", "--now", "--quiet", *services], check=False)


def free_ports(count: int) -> list[int]:
    """Ports of the loopback interface that nothing listens on."""
    found: list[int] = []
    for port in random.sample(PORTS, len(PORTS)):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        found.append(port)
        if len(found) == count:
            return found
    raise OSError(f"no {count} free ports in {PORTS}")


def name_nodes(folder: Path) -> None:
    """Let node1.. and this machine's own name resolve to 127.0.0.1: jobs meet at MASTER_ADDR=node1,
    and SLURM's daemons listen where the machine's name leads.

    Raises ValueError if /etc/hosts has a node1 that is not a testbed's.
    """
    for line in HOSTS.read_text().splitlines():
        words, _, comment = line.partition("#")
        if set(words.split()) & set(NODES) and not comment.startswith(" clf testbed"):
            raise ValueError(f"{HOSTS} names a {NODES[0]} of its own: {line!r}; remove that line")
    with HOSTS.open("r+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        text = file.read()
        newline = "" if text.endswith("\n") or not text else "\n"
        host = socket.gethostname()
        names = " ".join(dict.fromkeys([*NODES, host, host.partition(".")[0]]))
        file.write(f"{newline}127.0.0.1 {names} # clf testbed {folder}\n")


def forget_nodes(folder: Path) -> None:
    """Take the line of `name_nodes` out again.

    Written in place: inside a container the file is a mount, which cannot be replaced.
    """
    if f"# clf testbed {folder}\n" not in HOSTS.read_text():
        return  # nor is root needed
    with HOSTS.open("r+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        lines = file.readlines()
        file.seek(0)
        file.writelines(line for line in lines if not line.endswith(f"# clf testbed {folder}\n"))
        file.truncate()


def own_address() -> str:
    """What this machine's name resolves to: 127.0.0.1 after `name_nodes`."""
    host = socket.gethostname()
    return str(socket.getaddrinfo(host, None, socket.AF_INET)[0][4][0])
