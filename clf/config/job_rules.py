"""What a configuration may not ask of a job: the rules for its environment, options of sbatch,
container, mail, staging, cache and folder. A part of `clf.config.rules`."""

import re
from collections.abc import Iterator
from dataclasses import fields

from clf.config.faults import SECRET_WORDS, show
from clf.config.schema import AugmentConfig, DataConfig, RunConfig
from clf.config.slurm_words import gpus

# Options of sbatch that other settings control -> what to do instead
OWN_OPTIONS = {
    "job-name": "set name",
    "nodes": "set nodes",
    "ntasks": "set nodes and gpus",
    "ntasks-per-node": "set gpus",
    "ntasks-per-gpu": "set gpus",
    "gpus": "set gpus, or slurm.options.gres for their kind",
    "gpus-per-node": "set gpus, or slurm.options.gres for their kind",
    "gpus-per-task": "set gpus, or slurm.options.gres for their kind",
    "cpus-per-task": "set slurm.cpus_per_gpu",
    "cpus-per-gpu": "set slurm.cpus_per_gpu",
    "mincpus": "set slurm.cpus_per_gpu",
    "mem": "set slurm.mem_gb",
    "time": "set slurm.time",
    "partition": "set slurm.partition",
    "account": "set slurm.account",
    "qos": "set slurm.qos",
    "constraint": "set slurm.constraint",
    "exclude": "set slurm.exclude",
    "nodelist": "set slurm.nodelist",
    "reservation": "set slurm.reservation",
    "dependency": "set slurm.dependency",
    "mail-user": "set slurm.mail_user",
    "mail-type": "set slurm.mail_type",
    "signal": "set slurm.signal_s",
    "array": "use --sweep and slurm.parallel",
    "requeue": "set slurm.max_requeues",
    "no-requeue": "set slurm.max_requeues=0 instead",
    "output": "the logs are in the run folder; set runs_dir",
    "error": "the logs are in the run folder; set runs_dir",
    "open-mode": "every start appends to the logs",
    "parsable": "it changes what sbatch prints, which is read",
    "test-only": "use --dry-run",
    "wait": "use --follow",
    "help": "it makes sbatch print and submit nothing",
    "usage": "it makes sbatch print and submit nothing",
    "version": "it makes sbatch print and submit nothing",
    "wrap": "the job's script is made from the configuration",
}


def _runs_dir(cfg: RunConfig) -> Iterator[str]:
    if ":" in cfg.runs_dir or "\\" in cfg.runs_dir:
        yield (
            f"runs_dir={cfg.runs_dir}: holds a colon or a backslash, which PYTHONPATH and the "
            "names of SLURM's logs cannot hold; choose another folder"
        )


def _slurm(cfg: RunConfig) -> Iterator[str]:
    slurm, container = cfg.slurm, cfg.slurm.container
    for name, value in slurm.env.items():
        given = f"slurm.env.{name}={show(value)}"
        if not re.fullmatch(r"[A-Za-z_]\w*", name, re.ASCII):
            yield f"{given}: {name} cannot be the name of an environment variable"
        elif any(word in name.upper() for word in SECRET_WORDS):
            yield (
                f"slurm.env.{name}: a key or token must not stand in a configuration; export it in "
                "the shell that submits: SLURM hands its environment on to the job"
            )
        elif name.startswith(("SLURM_", "SUBMITIT_", "MASTER_")) or name == "PYTHONPATH":
            yield f"{given}: the job sets it itself; take it out"
    for mount in container.mounts:
        parts = mount.split(":")
        if "," in mount or not 1 <= len(parts) <= 3 or not parts[0].startswith("/"):
            yield (
                f"slurm.container.mounts={show(container.mounts)}: expected /from:/to, absolute "
                f"and without a comma; got {mount}"
            )
    if container.image is not None and (not container.image or container.image[0] == "-"):
        yield f"slurm.container.image={container.image}: expected a file or the name of an image"
    if (slurm.mail_user is None) != (slurm.mail_type is None):
        key, other = ("user", "type") if slurm.mail_type is None else ("type", "user")
        example = {"user": "me@example.org", "type": "END,FAIL"}[other]
        yield (
            f"slurm.mail_{key}={getattr(slurm, f'mail_{key}')}: no mail is sent without "
            f"slurm.mail_{other}, such as slurm.mail_{other}={example}"
        )


def _options(cfg: RunConfig) -> Iterator[str]:
    for name, value in cfg.slurm.options.items():
        given = f"slurm.options.{name}={show(value)}"
        # sbatch takes any beginning of a name that no other option shares.
        whole = next((own for own in OWN_OPTIONS if own.startswith(name)), None)
        if not re.fullmatch(r"[A-Za-z][A-Za-z0-9-]+", name, re.ASCII):
            yield (
                f"{given}: {show(name)} cannot be an option of sbatch; write its long name, of "
                "letters, digits and dashes, such as slurm.options.comment=TEXT"
            )
        elif whole is not None:
            what = "" if name in OWN_OPTIONS else f" ({whole})"
            advice = OWN_OPTIONS.get(name, OWN_OPTIONS[whole])
            yield f"{given}: every job has this option{what} from elsewhere; {advice}"
        elif not (value is None or value is True or type(value) in (str, int, float)):
            yield (
                f"{given}: expected a text or a number, true for an option without a value, or "
                "null to leave it out"
            )
    asked = gpus(str(cfg.slurm.options.get("gres") or ""))
    if asked and cfg.gpus is not None and cfg.gpus != asked and cfg.strategy.accelerator != "cpu":
        yield (
            f"gpus={cfg.gpus}: slurm.options.gres={cfg.slurm.options['gres']} asks for {asked} on "
            f"each node; set gpus={asked}, or leave gpus out"
        )


def _cache(cfg: RunConfig) -> Iterator[str]:
    data = cfg.data
    if data.cache == "device":
        yield from _device_cache(data)
    for key in ("cache_gb", "cache_dir"):
        if data.cache == "none" and (value := getattr(data, key)) is not None:
            yield (
                f"data.{key}={show(value)}: nothing is kept with data.cache=none; set "
                f"data.cache=ram or data.cache=disk, or take data.{key} out"
            )


ON_DEVICE = {"crop_scale", "crop_ratio", "horizontal_flip"}  # of data.augment
DETAILS = {"rand_augment_ops", "rand_augment_magnitude", "jpeg_quality", "noise_std"}  # of others


def _device_cache(data: DataConfig) -> Iterator[str]:
    names = {one.name for one in fields(AugmentConfig)} - ON_DEVICE - DETAILS
    usual = AugmentConfig()
    asked = [
        f"data.augment.{name}"
        for name in sorted(names)
        if getattr(data.augment, name) != getattr(usual, name)
    ]
    if data.interpolation == "bicubic":
        asked.append("data.interpolation=bicubic")
    if asked:
        yield (
            "data.cache=device: on the device images are cropped, resized (bilinear) and flipped, "
            f"and nothing else is done to them; take out {', '.join(asked)}, or set data.cache=ram"
        )
    if data.micro_batch_size == "auto":
        yield (
            "data.cache=device: data.micro_batch_size=auto tries how many images fit before the "
            "data are in the device's memory; set a number, or data.cache=ram"
        )


def _stage(cfg: RunConfig) -> Iterator[str]:
    if cfg.data.stage == "none" and cfg.data.stage_dir is not None:
        yield (
            f"data.stage_dir={cfg.data.stage_dir}: nothing is copied with data.stage=none; set "
            "data.stage=node, or take data.stage_dir out"
        )
    if cfg.data.origin is not None:
        yield f"data.origin={cfg.data.origin}: only a job sets it; set data.root"


JOB_RULES = [_runs_dir, _slurm, _options, _stage, _cache]
