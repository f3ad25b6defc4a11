"""Testbed: starts, breaks and ends a SLURM cluster whose whole state is one folder.

with Testbed() as testbed:
    testbed.command("sbatch", "--parsable", "--wrap", "srun hostname")
"""

import contextlib
import os
import re
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType

from tests.slurm.testbed import machine, processes
from tests.slurm.testbed.configuration import MARK, NODES, write_configuration

LONGEST_FOLDER = 60  # characters: a socket's path ends at 107, and SLURM's are in sub-folders
PLAIN = re.compile(r"[\w./-]+", re.ASCII)
START_S = 30  # for the nodes to report
CANCEL_S = 30  # for cancelled jobs to end: after KillWait (5 s) SLURM kills them
LEAVE_S = 2  # for cancelled jobs to end by themselves when the testbed goes down
COMMAND_S = 30
READY = ("idle", "mixed", "allocated")  # in sinfo's words
MARKED = ("down", "drained", "draining")  # by somebody; a star would say that it does not answer


class TestbedError(RuntimeError):
    """The cluster did not do what was asked; the message has what SLURM said."""

    __test__ = False  # not a class of tests, whatever pytest takes it for


class Testbed:
    """One cluster in `folder`: node1..node4, 2 GPUs each; partitions as in `configuration`.

    `slurmd_timeout_s`: how long a node may be silent before it is down and its jobs are requeued.
    `requeue_wait_s`: how long a requeued job waits before it may start (SLURM's own default: 120).
    """

    __test__ = False

    def __init__(
        self, folder: Path | None = None, slurmd_timeout_s: int = 10, requeue_wait_s: int = 10
    ) -> None:
        self.folder = Path(folder or default_folder()).absolute()
        self.slurmd_timeout_s = slurmd_timeout_s
        self.requeue_wait_s = requeue_wait_s

    @property
    def environment(self) -> dict[str, str]:
        """What SLURM's commands need to find this cluster."""
        return {"SLURM_CONF": str(self.folder / "slurm.conf")}

    @property
    def is_up(self) -> bool:
        """Whether the controller runs."""
        return self._ours() and self._daemon("slurmctld") is not None

    def up(self) -> bool:
        """Start the cluster and wait for its nodes, about a second; False if it already runs.

        Raises TestbedError if programs or rights are missing or the cluster does not come up, and
        ValueError if the folder is not a testbed's.
        """
        if self.is_up:
            return False
        if faults := machine.missing():
            raise TestbedError("The testbed cannot start here: " + "; ".join(faults))
        self.down()  # what a crash or a restart of the machine left
        if len(str(self.folder)) > LONGEST_FOLDER or not PLAIN.fullmatch(str(self.folder)):
            raise ValueError(
                f"{self.folder} does not suit slurm.conf and sockets: at most {LONGEST_FOLDER} "
                "letters, digits and _ . - /; name another folder"
            )
        self.folder.mkdir(parents=True)  # fails if another `up` was faster
        try:
            self._write_folder()
            self._start_munged()
            self._start(["slurmctld", "-f", self.environment["SLURM_CONF"]])
            for node in NODES:
                self._start_slurmd(node)
            self._wait_for_nodes()
        except BaseException:
            self.down()
            raise
        return True

    def down(self) -> bool:
        """End all its processes, jobs' included, and delete the folder; False if there is none."""
        machine.forget_nodes(self.folder)
        if not self._ours():
            return False
        if self.is_up and self._daemon("munged"):
            # So that `srun` in somebody's shell ends by itself; jobs that stay are killed below.
            with contextlib.suppress(TestbedError):
                self.cancel_all(LEAVE_S)
        # The controller first, so that nothing is started again; munged last: the others ask it.
        for name in ("slurmctld", *NODES):
            self._kill(name)
        while left := processes.of_jobs(self.folder):
            processes.kill(left)
        self._kill("munged")
        shutil.rmtree(self.folder)
        return True

    def __enter__(self) -> "Testbed":
        self.up()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.down()

    def command(self, *words: str) -> str:
        """Output of one of SLURM's commands. Raises TestbedError with its message if it fails."""
        environment = machine.environment() | self.environment
        try:
            done = subprocess.run(
                words, env=environment, capture_output=True, text=True, timeout=COMMAND_S
            )
        except subprocess.TimeoutExpired as error:
            raise TestbedError(f"{' '.join(words)}: no answer in {COMMAND_S} s") from error
        if done.returncode:
            raise TestbedError(f"{' '.join(words)}: {done.stderr.strip() or done.stdout.strip()}")
        return done.stdout

    def kill_slurmd(self, node: str) -> None:
        """SIGKILL a node's daemon; its jobs are requeued when SLURM notices, in about 17 s.

        Until the daemon runs again nobody ends the tasks that it had started: see `kill_node`.
        """
        self._kill(_known(node))

    def kill_node(self, node: str) -> None:
        """A node loses power: its daemon and all that it runs are gone at once."""
        self._kill(_known(node))
        processes.kill(processes.of_jobs(self.folder, node))

    def restart_slurmd(self, node: str) -> None:
        """Start a node's daemon again, and wait until jobs can go there."""
        self._kill(_known(node))
        self._start_slurmd(node)
        self._wait_for_nodes(node)

    def set_down(self, node: str) -> None:
        """What an administrator does to a bad node: its jobs fail there and are requeued."""
        self.command(
            "scontrol", "update", f"nodename={_known(node)}", "state=down", "reason=testbed"
        )

    def repair(self, *nodes: str) -> None:
        """Nodes, all by default, up again, whatever was done to them."""
        for node in nodes or NODES:
            if self._daemon(_known(node)) is None:
                self._start_slurmd(node)
        self._wait_for_nodes(*nodes)

    def start_now(self, job: str) -> None:
        """Let a requeued job start in 2 s, without the rest of its wait.

        Sooner is too soon: a node refuses a job in the second in which it killed it ("Job
        credential revoked"), and SLURM then counts the job as failed.
        """
        self.command("scontrol", "update", f"jobid={job}", "StartTime=now+2seconds")

    def cancel_all(self, seconds: float = CANCEL_S) -> None:
        """Cancel all jobs and wait until they are gone. Raises TestbedError if they do not go."""
        deadline = time.monotonic() + seconds
        while jobs := self.command("squeue", "-h", "-o", "%A").split():
            if time.monotonic() > deadline:
                raise TestbedError(f"jobs {jobs} do not end in {seconds} s after scancel")
            self.command("scancel", "--quiet", *jobs)
            time.sleep(0.1)

    def node_states(self) -> dict[str, str]:
        """{"node1": "idle", ...}, in sinfo's words."""
        listing = self.command("sinfo", "-h", "-N", "-p", "gpu", "-o", "%N %T")
        return dict(line.split() for line in listing.splitlines())

    def _ours(self) -> bool:
        """Whether the folder is a testbed of this user. Raises ValueError if it is another's."""
        if not self.folder.exists():
            return False
        conf = self.folder / "slurm.conf"
        mine = not self.folder.is_symlink() and self.folder.stat().st_uid == os.getuid()
        if mine and conf.is_file() and conf.read_text().startswith(MARK):
            return True
        raise ValueError(f"{self.folder} is there and is no testbed of yours; name another folder")

    def _write_folder(self) -> None:
        (self.folder / "slurm.conf").write_text(MARK)  # from here on ours to delete
        for name in ("munge", "state", "spool", "pid", "logs"):
            (self.folder / name).mkdir()
        for node in NODES:
            (self.folder / "spool" / node).mkdir()
        for folder in (self.folder, self.folder / "munge"):
            folder.chmod(0o755)  # whatever the umask: munged wants its socket open to all users
        machine.name_nodes(self.folder)
        write_configuration(
            self.folder,
            ports=machine.free_ports(1 + len(NODES)),
            address=machine.own_address(),
            slurmd_timeout_s=self.slurmd_timeout_s,
            requeue_wait_s=self.requeue_wait_s,
        )

    def _start_munged(self) -> None:
        munge = self.folder / "munge"
        key = os.open(munge / "key", os.O_WRONLY | os.O_CREAT, 0o600)
        with open(key, "wb") as file:
            file.write(os.urandom(1024))
        self._start(
            [
                "munged",
                f"--key-file={munge}/key",
                f"--socket={munge}/socket",
                f"--seed-file={munge}/seed",
                f"--pid-file={self.folder}/pid/munged",
                f"--log-file={self.folder}/logs/munged.log",
            ]
        )

    def _start_slurmd(self, node: str) -> None:
        self._start(["slurmd", "-N", node, "-f", self.environment["SLURM_CONF"]])

    def _start(self, command: list[str]) -> None:
        """Run a daemon, which goes into the background by itself."""
        environment = machine.environment() | self.environment
        # To a file: a daemon that kept a pipe open would be waited for.
        with tempfile.TemporaryFile() as output:
            done = subprocess.run(
                command,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                timeout=COMMAND_S,
            )
            output.seek(0)
            said = output.read().decode(errors="replace").strip()
        if done.returncode:
            raise TestbedError(f"{' '.join(command)} ended with {done.returncode}: {said}")

    def _daemon(self, name: str) -> int | None:
        return processes.daemon(self.folder / "pid" / name, self.folder)

    def _kill(self, name: str) -> None:
        if pid := self._daemon(name):
            processes.kill([pid])

    def _wait_for_nodes(self, *nodes: str) -> None:
        """Until jobs can go to them; nodes that are only marked down or drained are resumed."""
        deadline = time.monotonic() + START_S
        said = "nothing"
        while time.monotonic() < deadline:
            try:
                states = self.node_states()
                said = str(states)
                waiting = [node for node in nodes or NODES if states.get(node) not in READY]
                if not waiting:
                    return
                for node in waiting:
                    if states.get(node) in MARKED:
                        self.command("scontrol", "update", f"nodename={node}", "state=resume")
            except TestbedError as error:  # the controller is not up yet, or the state just changed
                said = str(error)
            time.sleep(0.1)
        raise TestbedError(f"nodes are not up after {START_S} s; SLURM says: {said}")


def default_folder() -> Path:
    """One testbed a user, unless another folder is named."""
    return Path(tempfile.gettempdir()) / f"clf-testbed-{os.getuid()}"


def _known(node: str) -> str:
    if node not in NODES:
        raise ValueError(f"node {node!r} is not one of {', '.join(NODES)}")
    return node
