"""Times and GPU counts in SLURM's notation mean the same wherever they are read."""

import shutil
from pathlib import Path

import pytest

from clf.config.compose import CONFIG_DIR
from clf.config.saved import load, save
from clf.config.slurm_words import gpus, minutes, seconds
from clf.plan import compose


# sbatch(1): minutes, minutes:seconds, hours:minutes:seconds, days-hours, days-hours:minutes and
# days-hours:minutes:seconds.
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("90", 90 * 60),
        ("20:30", 20 * 60 + 30),
        ("4:00:00", 4 * 3600),
        ("0:20:30", 20 * 60 + 30),
        ("1-12", 36 * 3600),
        ("1-12:30", 36.5 * 3600),
        ("2-00:30:01", 48.5 * 3600 + 1),
        ("UNLIMITED", float("inf")),
        ("soon", None),
        ("", None),
        ("4:00:00:00", None),
        ("-3", None),
    ],
)
def test_a_time_means_what_the_manual_of_sbatch_says(text: str, expected: float | None) -> None:
    assert seconds(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"), [("0:20:30", 21), ("0:20:00", 20), ("UNLIMITED", None), ("soon", None)]
)
def test_minutes_are_rounded_up_and_no_limit_is_none(text: str, expected: int | None) -> None:
    assert minutes(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("gpu:2", 2),
        ("gpu:a100:8(S:0-1)", 8),
        ("gpu:tesla_v100-sxm2:4(S:0,1),shard:8", 4),
        ("gpu:a100:2,gpu:h100:1", 3),
        ("lscratch:100,gpu:2", 2),
        ("gres/gpu:2", 2),
        ("gpu", 1),
        ("gpu:a100", 1),
        ("(null)", 0),
        ("xgpu:3", 0),
        ("", 0),
    ],
)
def test_gpus_are_counted_whatever_their_kind(text: str, expected: int) -> None:
    assert gpus(text) == expected


@pytest.mark.parametrize(
    ("typed", "expected"),
    [("90", 90), ("4:00:00", 240), ("0:20:30", 21), ("1-12", 2160), ("12:30", 13), ("null", None)],
)
def test_the_command_line_takes_slurm_s_forms_of_a_time(typed: str, expected: int | None) -> None:
    assert compose([f"slurm.time={typed}"]).slurm.time == expected


@pytest.mark.parametrize("place", ["slurm", "recipe"])
@pytest.mark.parametrize(
    ("written", "expected"),
    [("12:00:00", 720), ("'4:00:00'", 240), ("1-12", 2160), ("45", 45), ("12:30", 13)],
)
def test_a_yaml_file_takes_the_same_forms_without_quotes(
    place: str, written: str, expected: int, tmp_path: Path
) -> None:
    """YAML reads 12:00:00 as the number 43200."""
    configs = tmp_path / "configs"
    shutil.copytree(CONFIG_DIR, configs)
    text = f"time: {written}\n"
    if place == "recipe":
        text = f"# @package _global_\nslurm:\n  time: {written}\n"
    (configs / place / "mine.yaml").write_text(text)
    cfg = compose([f"{place}=mine"], config_dir=configs)
    assert cfg.slurm.time == expected
    save(cfg, tmp_path / "config.yaml")
    assert f"\n  time: {expected}\n" in (tmp_path / "config.yaml").read_text()
    assert load(tmp_path / "config.yaml") == cfg


@pytest.mark.parametrize("typed", ["soon", "UNLIMITED", "1.5", "4:00:00:00"])
def test_another_text_is_refused_with_the_forms_that_are_right(typed: str) -> None:
    with pytest.raises(ValueError, match=rf"slurm.time={typed}: expected minutes, or a time as"):
        compose([f"slurm.time={typed}"])
