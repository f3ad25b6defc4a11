"""What a configuration may not ask of a job: environment, container, mail, staging, and the place
of its folder. Part of `clf.config.rules.check`."""

import re
from collections.abc import Iterator

from clf.config.faults import SECRET_WORDS, show
from clf.config.schema import RunConfig


def _runs_dir(cfg: RunConfig) -> Iterator[str]:
    if ":" in cfg.runs_dir or "\\" in cfg.runs_dir:
        yield (
            f"runs_dir={cfg.runs_dir}: holds a colon or a backslash, which a path of Python's code "
            "and SLURM's logs cannot; choose another folder"
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
                f"and without a comma, got {mount}"
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


def _stage(cfg: RunConfig) -> Iterator[str]:
    if cfg.data.stage == "none" and cfg.data.stage_dir is not None:
        yield (
            f"data.stage_dir={cfg.data.stage_dir}: nothing is copied with data.stage=none; set "
            "data.stage=node, or take data.stage_dir out"
        )
    if cfg.data.origin is not None:
        yield f"data.origin={cfg.data.origin}: is set by a job alone; set data.root"


JOB_RULES = [_runs_dir, _slurm, _stage]
