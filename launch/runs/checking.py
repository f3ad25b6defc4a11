"""All that is wrong with a run that is to be submitted, in one message: its settings, its data, the
devices, and what SLURM and the disk say."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from clf.config import RunConfig
from clf.config.compose import Composed
from clf.config.faults import Findings, one_a_key

UNSOUND = ("name", "runs_dir", "nodes", "gpus", "slurm")  # faults in these: SLURM need not be asked


def to_submit(
    settings: Sequence[str], fetch: bool, queued: bool = True
) -> tuple[RunConfig, list[str]]:
    """The resolved config with its number of devices, and notes for the user.

    Args:
        settings: `key=value`
        fetch: download weights that the job will need
        queued: look at what is asked of SLURM too; not for an allocation that is there already

    Raises:
        ConfigError: with every fault
    """
    from clf.config import ConfigError
    from clf.plan import resolve

    examined = with_devices(settings)
    cfg, found = examined.cfg, Findings(examined.faults, examined.notes)
    if cfg is not None and not _unsound(found.faults):
        resolve(cfg)
        assert cfg.name is not None
        found.add(look(cfg, [Path(cfg.runs_dir, cfg.name)], None, fetch, queued))
    if cfg is None or found.faults:
        raise ConfigError(found.faults)
    return cfg, found.notes


def with_devices(settings: Sequence[str]) -> Composed:
    """The config with `gpus` set, and what is wrong with its settings, its data and this
    machine."""
    from clf.plan import examine
    from slurm.devices import devices_per_node, resources

    def fill(cfg: RunConfig) -> None:
        cfg.gpus = devices_per_node(cfg)

    examined = examine(settings, fill=fill)
    if examined.cfg is not None:
        here = resources(examined.cfg)
        examined.faults = one_a_key([*here.faults, *examined.faults])
        examined.notes += here.notes
    return examined


def look(
    cfg: RunConfig,
    runs: Sequence[Path],
    array: Path | None = None,
    fetch: bool = True,
    queued: bool = True,
) -> Findings:
    """What would end the job later. Where there is no SLURM the job starts at once, and reports
    most of it itself."""
    from slurm import preflight
    from slurm.devices import has_slurm
    from slurm.snapshot import missing_modules

    found = Findings(missing_modules(cfg))
    if not has_slurm():
        return found
    if not queued:
        found.faults += preflight.weights_faults(cfg) if fetch else []
        return found
    if fetch and (cfg.model.pretrained or cfg.model.weights):
        print("looking for the weights (this imports torch) ...", file=sys.stderr, flush=True)
    found.add(preflight.look(cfg, runs, array, fetch))
    return found


def print_notes(notes: Sequence[str], file: Any = None) -> None:
    for note in notes:
        print(f"note: {note}", file=file or sys.stdout)


def _unsound(faults: Sequence[str]) -> bool:
    return any(fault.split("=")[0].split(".")[0] in UNSOUND for fault in faults)
