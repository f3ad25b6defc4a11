"""Leaves out the nodes on which a run has failed twice by the hardware's doing.

    suspect(run_dir)        which node the latest start failed on, for its event in events.jsonl
    leave_out(run_dir)      adds to slurm.exclude of the run; what the job must not run on now
    requeue(job_id, nodes)  puts this job into the queue again, without them

The end of the job script (`slurm.after`) calls these. Imports no torch.
"""

import json
import os
import re
import signal
from collections import defaultdict
from pathlib import Path
from typing import Any

from clf.atomic import write_text
from clf.run_folder import RunFolder, read_departures, read_events
from slurm import environment, queue
from slurm.failures import Diagnosis, diagnose
from slurm.records import errors, events_of_last_start, record_event
from slurm.submitit_adapter import node_names

HARDWARE = ("NCCL", "hardware", "hang", "node failure")  # kinds of a diagnosis
FAILURES = 2  # on a node, before it is left out
LOST = ("down", "fail", "not_resp")  # beginnings of a node's state, in sinfo's words
# The value of `exclude` in the block of `slurm`, as `clf.config.saved` writes it.
EXCLUDE = re.compile(r"(?m)(?P<before>^slurm:\n(?:^  .*\n)*?^  exclude: )(?P<value>.*)$")
LEAVE_S = 60  # for SLURM to end this job once it is in the queue again


def suspect(run_dir: Path) -> dict[str, str]:
    """`bad_node` and `kind` for the event of a start that the hardware has ended; {} if it was
    another cause, or if it is not known which node is to blame."""
    found = diagnose(run_dir)
    if found is None or found.kind not in HARDWARE:
        return {}
    node = _lost(run_dir, found) if found.kind == "node failure" else found.host
    return {"bad_node": node, "kind": found.kind} if node else {}


def _lost(run_dir: Path, found: Diagnosis) -> str | None:
    """The one that is gone: SLURM names it, or it is the only one from which no error came. Those
    that did report have only lost the connection to it."""
    if named := re.search(r"Node failure on ([\w.-]+)", found.summary):
        return named[1]
    nodes = events_of_last_start(run_dir)[:1]
    silent = {node for event in nodes for node in event["nodes"]} - {
        record["host"] for record in errors(run_dir)
    }
    return silent.pop() if len(silent) == 1 else None


def record_lost(run_dir: Path) -> None:
    """If the start before this one has ended without a word, record which of its nodes are down:
    with the node of the batch script, SLURM loses what would have recorded it."""
    before = events_of_last_start(run_dir)
    if not before or before[0]["event"] != "start" or len(before) > 1:
        return
    nodes = ",".join(before[0]["nodes"])
    try:
        shown = queue.ask(["sinfo", "-h", "-N", "-n", nodes, "-o", "%N %t"]) if nodes else ""
    except queue.QueueError:
        return  # then nobody is blamed
    states = dict(line.split()[:2] for line in shown.splitlines())
    for node, state in states.items():
        if state.startswith(LOST) or state.endswith("*"):
            record_event(
                run_dir,
                "lost",
                reason=f"{node} is {state} in SLURM's words",
                bad_node=node,
                kind="node failure",
            )


def failures(run_dir: Path) -> dict[str, list[str]]:
    """Node -> the kinds of its failures since it was last left out, the oldest first. Each epoch in
    whose validation its accuracy departs from the others' counts as one."""
    found: dict[str, list[str]] = defaultdict(list)
    since: dict[str, float] = {}
    for event in read_events(run_dir):
        for node in event.get("left_out") or ():
            found.pop(node, None)
            since[node] = event["time"]
        if node := event.get("bad_node"):
            found[node].append(str(event.get("kind")))
    departures = {
        (one["node"], one["epoch"]): one["time"]
        for one in read_departures(run_dir)
        if one["split"] == "val"
    }
    for (node, _), when in departures.items():
        if when > since.get(node, 0):
            found[node].append("departing accuracy")
    return dict(found)


def leave_out(run_dir: Path) -> list[str]:
    """Decide which further nodes the run leaves out, say so, and add them to `slurm.exclude` of its
    config.yaml; [] if there are none."""
    import yaml

    folder = RunFolder(run_dir)
    text = folder.config.read_text(encoding="utf-8")
    config = yaml.safe_load(text)
    asked = config["slurm"]
    excluded = node_names(asked.get("exclude") or "")
    ours = _own(run_dir)
    room = asked.get("max_excluded", 0) - len(set(ours).intersection(excluded))
    new: list[str] = []
    for node, kinds in sorted(failures(run_dir).items(), key=lambda one: -len(one[1])):
        if len(kinds) < FAILURES or node in excluded:
            continue
        why = f"{node} has failed {len(kinds)} times ({', '.join(dict.fromkeys(kinds))})"
        if len(new) >= room:
            limit = f"slurm.max_excluded={asked.get('max_excluded', 0)} is reached"
            print(f"clf: {why}, and is not left out: {limit}", flush=True)
        elif refusal := _cannot_run_without(run_dir, [*excluded, *new, node]):
            print(f"clf: {why}, and is not left out: {refusal}", flush=True)
        else:
            new.append(node)
            print(f"clf: {why}: it is left out from now on (slurm.exclude)", flush=True)
            record_event(run_dir, "left out", reason=why, left_out=[node])
    if new:
        both = ",".join(filter(None, [asked.get("exclude"), *new]))
        if (grown := with_exclude(text, both)) is not None:
            write_text(folder.config, grown)
    return new


def with_exclude(text: str, nodes: str) -> str | None:
    """The text of a config.yaml with another `slurm.exclude`; None if it has no such line."""
    grown, count = EXCLUDE.subn(lambda found: found["before"] + json.dumps(nodes), text)
    return grown if count else None


def excluded(run_dir: Path) -> str:
    """`slurm.exclude` of the run's config.yaml."""
    import yaml

    text = RunFolder(run_dir).config.read_text(encoding="utf-8")
    return yaml.safe_load(text)["slurm"].get("exclude") or ""


def with_own(run_dir: Path, exclude: str | None) -> str | None:
    """`slurm.exclude` of a command that is typed again for a run, and the nodes that the run itself
    has left out since."""
    ours = _own(run_dir)
    still = set(ours).intersection(node_names(excluded(run_dir))) if ours else set()
    new = still - set(node_names(exclude or ""))
    return ",".join(filter(None, [exclude, *sorted(new)])) or None


def _own(run_dir: Path) -> list[str]:
    """The nodes that the run has left out by itself."""
    return [node for event in read_events(run_dir) for node in event.get("left_out") or ()]


def _cannot_run_without(run_dir: Path, nodes: list[str]) -> str | None:
    """Why SLURM could not run the job's script without these nodes; None if it could. The script of
    a sweep lies in the sweep's folder."""
    scripts = [RunFolder(run_dir).logs / "job.sbatch", run_dir.parent / "logs" / "job.sbatch"]
    script = next((path for path in scripts if path.is_file()), None)
    if script is None:
        return "its job was not submitted by clf"
    command = ["sbatch", "--test-only", f"--exclude={','.join(nodes)}", str(script)]
    try:
        queue.ask(command, environment.without_job(os.environ))
    except queue.QueueError as error:
        return f"without it the job could not run ({error})"
    return None


def requeue(job_id: str, nodes: str) -> bool:
    """Put this job into the queue again without these nodes, and wait until SLURM ends it. False:
    SLURM refused.

    SLURM changes the nodes of a waiting job only. From the first of these commands on it waits, and
    SLURM sends SIGTERM to all that is left of its start, and SIGKILL some seconds later. So the
    commands have it blocked, as what this process starts inherits.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        queue.ask(["scontrol", "requeue", job_id])
    except queue.QueueError as error:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        print(f"clf: {error}", flush=True)
        return False
    update(job_id, nodes)
    signal.sigtimedwait({signal.SIGTERM}, LEAVE_S)
    return True


def update(job_id: str, nodes: str) -> None:
    """Let a waiting job leave out these nodes."""
    try:
        queue.ask(["scontrol", "update", f"JobId={job_id}", f"ExcNodeList={nodes}"])
    except queue.QueueError as error:
        print(f"clf: this job does not leave out {nodes} yet: {error}", flush=True)


def left_out(run_dir: Path, events: list[dict[str, Any]]) -> list[str]:
    """A sentence for each node that the run leaves out by itself."""
    why = {node: one["reason"] for one in events for node in one.get("left_out") or ()}
    if not why:
        return []
    now = node_names(excluded(run_dir))
    return [reason for node, reason in why.items() if node in now]
