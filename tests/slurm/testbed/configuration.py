"""The testbed's slurm.conf and gres.conf. What a test may rely on is in PARTITIONS and NODES.

Written for SLURM 22.05 (Debian 12).
"""

import socket
from pathlib import Path

NODES = ("node1", "node2", "node3", "node4")
GPUS = ("/dev/null", "/dev/zero")  # of each node: any two devices that every machine has
GRACE_S = 20
MARK = "# clf testbed"  # first words of slurm.conf: this folder is ours to delete

# `gpu` has a time limit and is never preempted; `high` preempts `preempt`, whose jobs go back to
# the queue after GraceTime; `short` is for jobs that run into their time limit. SLURM looks for
# jobs past their grace or time limit every 30 s only.
PARTITIONS = """\
PartitionName=DEFAULT Nodes=ALL DefaultTime=30 MaxTime=60 PriorityTier=1 PreemptMode=OFF
PartitionName=gpu     Default=YES
PartitionName=short   DefaultTime=1 MaxTime=1
PartitionName=preempt PreemptMode=REQUEUE GraceTime={grace_s}
PartitionName=high    PriorityTier=10
"""

SLURM_CONF = """\
{mark} in {folder}: deleted with it
ClusterName=testbed
SlurmctldHost={host}({address})
SlurmctldPort={controller_port}
SlurmUser=root
SlurmdUser=root
# Loopback only: sockets are bound to what the machine's own name resolves to.
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
# cred_expire is also how long a requeued job waits before it may start (120 s by default).
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={folder}/munge/socket,cred_expire={requeue_wait_s}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
SlurmctldPidFile={folder}/pid/slurmctld
SlurmdPidFile={folder}/pid/%n
SlurmctldLogFile={folder}/logs/slurmctld.log
SlurmdLogFile={folder}/logs/%n.log
MailProg=/bin/true
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
DefMemPerCPU=1000
GresTypes=gpu
# The nodes have more cores and memory than the machine that plays them.
SlurmdParameters=config_overrides
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobRequeue=1
KillWait=5
# A dead node is found after SlurmdTimeout and a ping's MessageTimeout: about 17 s with 10 and 5.
MessageTimeout=5
SlurmdTimeout={slurmd_timeout_s}
SlurmctldTimeout=30
ReturnToService=1
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=1,sched_interval=2,sched_min_interval=0
"""

NODE = (
    "NodeName={node} NodeHostname={host} NodeAddr={address} Port={port} CPUs=16 RealMemory=64000"
    " Gres=gpu:{gpus}\n"
)


def write_configuration(
    folder: Path, ports: list[int], address: str, slurmd_timeout_s: int, requeue_wait_s: int
) -> None:
    """Write slurm.conf and gres.conf into `folder`.

    `ports`: the controller's, then one for each of NODES. `address`: where they listen.
    """
    host = socket.gethostname().partition(".")[0]
    text = SLURM_CONF.format(
        mark=MARK,
        folder=folder,
        host=host,
        address=address,
        controller_port=ports[0],
        slurmd_timeout_s=slurmd_timeout_s,
        requeue_wait_s=requeue_wait_s,
    )
    for node, port in zip(NODES, ports[1:], strict=True):
        text += NODE.format(node=node, host=host, address=address, port=port, gpus=len(GPUS))
    (folder / "slurm.conf").write_text(text + PARTITIONS.format(grace_s=GRACE_S))
    lines = [f"NodeName={node} Name=gpu File={gpu}\n" for node in NODES for gpu in GPUS]
    (folder / "gres.conf").write_text("".join(lines))
