"""Values from YAML are data: no text that a config can hold runs as shell, in the job script or on
the srun line."""

import copy
import json
import subprocess
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import pytest

from clf.config import RunConfig
from clf.plan import compose, resolve
from slurm.script import script
from tests.slurm.testbed import Testbed
from tests.slurm.user import SMALL, User

# Each makes a file `MARK` if a shell reads it: as a line, within quotes of both kinds, or bare.
PAYLOADS = (
    "$(: >MARK)",
    "`: >MARK`",
    "a; : >MARK;",
    "a'; : >MARK; '",
    'a"; : >MARK; "',
    'a\\"; : >MARK; #',
    "a && : >MARK &",
    "a) ; : >MARK; (",
    "a\n: >MARK\n",
    "a\r: >MARK",
)


def places(node: Any, prefix: str = "") -> Iterator[tuple[str, Any, str]]:
    """(key, dataclass, attribute) of every field that takes text."""
    for entry in fields(node):
        value = getattr(node, entry.name)
        if is_dataclass(value):
            yield from places(value, f"{prefix}{entry.name}.")
        elif "str" in str(entry.type):
            yield f"{prefix}{entry.name}", node, entry.name


def filled(base: RunConfig, payload: str, key: str) -> RunConfig:
    """The config with the payload at `key`, as if no check had looked at it; with a container, so
    that each of its fields is used."""
    cfg = copy.deepcopy(base)
    cfg.slurm.container.image = "image"
    cfg.slurm.container.runtime = "apptainer"
    for found, node, attribute in places(cfg):
        if found == key:
            kind = getattr(node, attribute)
            value = {"A": payload} if isinstance(kind, dict) else payload
            setattr(node, attribute, [payload] if isinstance(kind, list) else value)
    return cfg


def test_no_text_of_a_config_becomes_shell_whoever_put_it_there(tmp_path: Path) -> None:
    base = resolve(compose(["gpus=2", "nodes=2", "name=x", *SMALL]))
    keys = [key for key, _, _ in places(base) if key != "slurm.setup"]  # which is shell
    assert len(keys) > 30
    for name in ("srun", "env", "scontrol", "sleep"):
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
    used = set()
    for key in keys:
        for payload in PAYLOADS:
            cfg = filled(base, payload, key)
            if not payload.isprintable():
                if key in used:
                    with pytest.raises(ValueError, match="line break"):
                        script(cfg, [Path(cfg.runs_dir, cfg.name or "")])
                continue
            text = script(cfg, [Path(cfg.runs_dir, cfg.name or "")])
            if "MARK" not in text:
                continue
            used.add(key)
            # The commands that it calls do nothing here: what is left is the shell's own reading.
            subprocess.run(
                ["/bin/bash", "-c", text],
                cwd=tmp_path,
                env={"PATH": str(tmp_path), "SLURM_JOB_ID": "1"},
                capture_output=True,
                check=False,
            )
            assert not (tmp_path / "MARK").exists(), f"{key}={payload!r}"
    assert {"name", "runs_dir", "slurm.partition", "slurm.env", "slurm.container.mounts"} <= used


def test_the_check_refuses_what_slurm_has_no_use_for() -> None:
    for key, _, attribute in places(RunConfig().slurm, "slurm."):
        if attribute in ("setup", "env"):
            continue
        with pytest.raises(ValueError, match=key.rpartition(".")[0]):
            compose([f'{key}="a\n: >MARK\n"'])
    with pytest.raises(ValueError, match=r"slurm.setup.*line break"):
        compose(['slurm.setup=["a\n: >MARK\n"]'])


def test_texts_with_shell_in_them_reach_the_job_as_they_are(
    testbed: Testbed, checkout: Path
) -> None:
    user = User(testbed, checkout)
    nasty = "$(echo >MARK) `echo >MARK` ; echo >MARK ; 'one' \"two\" %j %% & #"
    place = user.home / nasty
    configs = checkout / "configs"
    (configs / "slurm" / "mine.yaml").write_text(f"env:\n  WORD: {quoted(nasty)}\n")
    (configs / "tracking" / "mine.yaml").write_text(
        f"mode: disabled\nproject: {quoted(nasty)}\ngroup: {quoted(nasty)}\n"
    )
    with (configs / "train.yaml").open("a") as file:
        file.write(f"\nruns_dir: {quoted(str(place))}\n")
    chosen = ("slurm=mine", "tracking=mine", "strategy.accelerator=cpu")
    user.types("submit.py", "--gpus", "2", "--name", "x", *chosen)
    user.waits("the run finished", (place / "x" / "status.json").exists)
    seen = json.loads((place / "x" / "seen0.json").read_text())
    assert (seen["WORD"], seen["path"][0]) == (nasty, str(place / "x" / "code"))
    logs = sorted(path.name.split("_", 1)[1] for path in (place / "x" / "logs").glob("*.out"))
    assert logs == ["0_log.out", "1_log.out"]
    assert not list(user.home.rglob("MARK"))
    assert not Path("MARK").exists()


def quoted(text: str) -> str:
    """Single quotes of YAML."""
    doubled = text.replace("'", "''")
    return f"'{doubled}'"
