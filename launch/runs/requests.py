"""From the words that were typed to a configuration that can be started: checked and resolved, with
its number of devices. All faults come in one message: of the settings, the data, the devices, and
what SLURM and the disk say."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from clf.config import ConfigError, RunConfig
from clf.config.assign import lay
from clf.config.compose import Composed, read
from clf.config.faults import Findings, one_a_key
from clf.config.files import CONFIG_DIR
from clf.config.given import Setting
from clf.config.node_range import is_elastic, least_nodes
from clf.config.overrides import parse
from clf.config.rules import check
from clf.config.saved import load
from clf.plan import class_findings, examine, resolve
from slurm import preflight
from slurm.devices import devices_per_node, has_slurm, resources
from slurm.snapshot import missing_modules

UNSOUND = ("name", "runs_dir", "nodes", "gpus", "slurm")  # faults in these: SLURM need not be asked
LOOKING = "looking for the weights (this imports torch) ..."


@dataclass
class Request:
    """What was asked for, ready to be started."""

    cfg: RunConfig
    notes: list[str] = field(default_factory=list)  # for the user; nothing to correct
    named: bool = True  # by the user; False: the name is made of data, model and time
    refresh: bool = False  # begin the run anew, with the data as they are now


def to_submit(
    settings: Sequence[str],
    fetch: bool,
    queued: bool = True,
    announce: Callable[[str], None] = lambda text: None,
    refresh: bool = False,
) -> Request:
    """The resolved configuration of a run with its number of devices.

    Args:
        settings: `key=value`
        fetch: download weights that the job will need
        queued: look at what is asked of SLURM too; not for an allocation that exists already
        announce: called with a line before something that takes long
        refresh: as for `clf.plan.examine`

    Raises:
        ConfigError: with every fault
    """
    examined = with_devices(settings, refresh)
    cfg, found = examined.cfg, Findings(examined.faults, examined.notes)
    named = cfg is not None and cfg.name is not None
    if cfg is not None and not _unsound(found.faults):
        resolve(cfg, refresh=refresh)
        assert cfg.name is not None
        runs = [Path(cfg.runs_dir, cfg.name)]
        found.add(before_the_queue(cfg, runs, None, fetch, queued, announce))
    if cfg is None or found.faults:
        raise ConfigError(found.faults)
    return Request(cfg, found.notes, named, refresh)


def to_train(settings: Sequence[str], config_name: str, refresh: bool = False) -> Request:
    """The resolved configuration of a run in this process, on one device. `refresh`: as for
    `clf.plan.examine`.

    Raises:
        ConfigError: with every fault
    """

    def one_device(cfg: RunConfig) -> None:
        cfg.gpus = 1 if cfg.gpus is None else cfg.gpus

    examined = examine(settings, config_name, fill=one_device, refresh=refresh)
    cfg, faults = examined.cfg, examined.faults
    if cfg is not None:
        too_many = [
            f"{key}={given}: this command runs in one process on one device; leave it out, or use "
            "launch/submit.py"
            for key, given, least in (
                ("nodes", cfg.nodes, least_nodes(cfg)),
                ("gpus", cfg.gpus, cfg.gpus or 1),
            )
            if least > 1
        ]
        faults = one_a_key([*too_many, *resources(cfg).faults, *faults])
        if is_elastic(cfg):
            examined.notes.append(f"nodes={cfg.nodes}: this command takes 1 node")
    if cfg is None or faults:
        raise ConfigError(faults)
    named = cfg.name is not None
    return Request(resolve(cfg, refresh=refresh), examined.notes, named, refresh)


def with_devices(settings: Sequence[str], refresh: bool = False) -> Composed:
    """The configuration with `gpus` set, and what is wrong with its settings, its data and this
    machine. `refresh`: as for `clf.plan.examine`."""
    examined = examine(settings, fill=_fill_devices, refresh=refresh)
    if examined.cfg is not None:
        here = resources(examined.cfg)
        examined.faults = one_a_key([*here.faults, *examined.faults])
        examined.notes += here.notes
    return examined


def to_resume(run_dir: Path, overrides: Sequence[str], refresh: bool = False) -> RunConfig:
    """The run's own configuration, in the place where its folder is now, with `overrides` applied.
    `refresh`: with the classes that the data have now.

    Raises:
        ConfigError: with every fault
    """
    cfg = load(run_dir / "config.yaml")
    cfg.name, cfg.runs_dir = run_dir.name, str(run_dir.parent)
    if overrides or refresh:
        cfg = _changed(cfg, overrides, refresh)
        cfg.name, cfg.runs_dir = run_dir.name, str(run_dir.parent)
        resolve(cfg, refresh=refresh)
    return cfg


def before_the_queue(
    cfg: RunConfig,
    runs: Sequence[Path],
    array: Path | None = None,
    fetch: bool = True,
    queued: bool = True,
    announce: Callable[[str], None] = lambda text: None,
) -> Findings:
    """What would end a job later. Where there is no SLURM the job starts at once, and reports most
    of it itself."""
    found = Findings(missing_modules(cfg))
    if not has_slurm():
        return found
    if not queued:
        found.faults += preflight.weights_faults(cfg) if fetch else []
        return found
    if fetch and (cfg.model.pretrained or cfg.model.weights):
        announce(LOOKING)
    found.add(preflight.look(cfg, runs, array, fetch))
    return found


def _fill_devices(cfg: RunConfig) -> None:
    cfg.gpus = devices_per_node(cfg)


def _changed(saved: RunConfig, overrides: Sequence[str], refresh: bool) -> RunConfig:
    """`saved` with the overrides applied. An option such as strategy=ddp replaces its group."""
    groups = {path.name for path in CONFIG_DIR.iterdir() if path.is_dir()} - {"recipe"}
    options = [text for text in overrides if text.partition("=")[0] in groups]
    tree, faults = asdict(saved), []
    if options:
        composed = read(options)
        faults += composed.faults
        chosen = asdict(composed.cfg) if composed.cfg is not None else tree
        tree |= {key: chosen[key] for key in (text.partition("=")[0] for text in options)}
    typed = parse([text for text in overrides if text not in options])
    saved_settings = (Setting(key, value) for key, value in tree.items())
    cfg, value_faults = lay([*saved_settings, *typed.settings])
    faults += [*typed.faults, *value_faults]
    if cfg is not None and not faults:
        if refresh or (cfg.data.name, cfg.data.root) != (saved.data.name, saved.data.root):
            cfg.model.num_classes = None  # of the new data: `changes` compares it with the run's
        faults += [*check(cfg), *class_findings(cfg, refresh).faults]
    if cfg is None or faults:
        raise ConfigError(one_a_key(faults))
    return cfg


def _unsound(faults: Sequence[str]) -> bool:
    return any(fault.split("=")[0].split(".")[0] in UNSOUND for fault in faults)
