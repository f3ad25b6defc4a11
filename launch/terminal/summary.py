"""What a command prints before and after a run: the run in a few lines, its per-class table, and
what to type next."""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from clf.config import RunConfig
from clf.config.node_range import in_words
from clf.config.words import load_yaml
from clf.metrics.measures import line
from clf.plan import images_per_batchnorm
from clf.run_folder import RunFolder, read_status
from clf.tracking.tables import PerClassRow, read_csv, render
from launch.runs.folders import Run, shown
from launch.terminal.screen import console, print_commands, print_fields, sibling
from slurm.devices import has_slurm, uses_gpus

WORST_CLASSES = 15  # rows of the table; per_class/test.csv has all


def print_run(out: Any, cfg: RunConfig, run: Run, where: str) -> None:
    """The run in a few lines.

    Args:
        where: the devices that it takes, in words
    """
    model, data = cfg.model, cfg.data
    classes = f"{model.num_classes} classes" if model.num_classes else "classes as the folder has"
    epochs = "1 epoch" if cfg.epochs == 1 else f"{cfg.epochs} epochs"
    fields: dict[str, str | None] = {
        "run": f"{cfg.name}"
        + ("  (goes on where it stopped)" if run.state == "unfinished" else ""),
        "folder": shown(run.path),
        "data": f"{data.name}, {classes}, {data.size} px"
        + (f", {data.eval_size} px in evaluation" if data.eval_size else ""),
        "model": f"{model._target_.rpartition('.')[2]}"
        + (
            f", weights {model.weights or 'of ImageNet'}"
            if model.pretrained or model.weights
            else ""
        ),
        "training": f"{epochs}, {data.batch_size} images a step, seed {cfg.seed}",
        "average": _average(cfg),
        "batchnorm": _batchnorm(cfg),
        "on": where,
    }
    print_fields(out, fields)


def _average(cfg: RunConfig) -> str | None:
    """What is evaluated and kept in place of the weights as trained."""
    if cfg.ema.decay is None:
        return None
    return (
        f"EMA of the weights, decay {cfg.ema.decay:g}: val, test and checkpoints are of it; "
        "val_raw is of the weights as trained"
    )


def _batchnorm(cfg: RunConfig) -> str | None:
    """How many images a BatchNorm layer sees at a time, and how to keep the number."""
    images = images_per_batchnorm(cfg)
    if images is None or cfg.data.micro_batch_size is not None or cfg.strategy.sync_batchnorm:
        return None if images is None else f"normalises over {images} images"
    return (
        f"normalises over {images} images, a rank's share of a step; on other devices "
        f"data.micro_batch_size={images} keeps that number"
    )


def resources(cfg: RunConfig) -> str:
    """The devices that the run will take, in words."""
    if has_slurm():
        tasks = "1 task" if cfg.gpus == 1 else f"{cfg.gpus} tasks"
        return f"SLURM, {in_words(cfg)} x {tasks}"
    kind = "GPU" if uses_gpus(cfg) else "CPU process"
    plural = "" if cfg.gpus == 1 else "es" if kind.endswith("s") else "s"
    return f"this machine (it has no SLURM), {cfg.gpus} {kind}{plural}"


def print_changes(out: Any, changes: Sequence[str]) -> None:
    """What is different from the start that the run goes on from."""
    for change in changes:
        out.print(f"change: {change}", markup=False)


def print_result(
    out: Any, run_dir: Path, scalars: dict[str, Any], has_said_why: bool = False
) -> None:
    """The per-class table of a run's final evaluation, its numbers, and why it stopped early if it
    did.

    Args:
        has_said_why: the run's own lines above have said why it stopped early
    """
    split = "test" if any(name.startswith("test/") for name in scalars) else "val"
    path = run_dir / "per_class" / f"{split}.csv"
    rows = read_csv(path) if path.is_file() else []
    print_per_class(out, rows, split, scalars, shown(path), _cut_short(run_dir, rows))
    reason = (read_status(run_dir) or {}).get("stopped_early")
    if reason and not has_said_why:
        out.print(f"The training {reason}", markup=False)


def _cut_short(run_dir: Path, rows: Sequence[PerClassRow]) -> str:
    """Of a run whose evaluations may end early, how early; else empty."""
    config = RunFolder(run_dir).config
    limit = load_yaml(config.read_text(encoding="utf-8"))[0] if config.is_file() else {}
    batches = limit.get("limit_batches") if isinstance(limit, dict) else None
    if batches is None:
        return ""
    images = sum(row.support for row in rows)
    unit = "batch" if batches == 1 else "batches"
    return f"limit_batches={batches}: at most {batches} {unit} a rank, {images} images"


def print_per_class(
    out: Any,
    rows: list[Any],
    split: str,
    scalars: dict[str, Any],
    whole: str = "",
    cut_short: str = "",
) -> None:
    """The worst classes of `rows`, and the numbers of the whole split.

    Args:
        whole: the file that holds all classes
        cut_short: of an evaluation that left out images, which; in words
    """
    from rich.measure import Measurement

    out.print()
    if rows:
        title = f"{split}: accuracy by class, worst first"
        title += f" ({cut_short})" if cut_short else ""
        table = render(rows, title, WORST_CLASSES, width=out.width)
        # A name that is cut cannot be copied: rather, the terminal breaks the line.
        endless = console(width=10_000)
        needed = Measurement.get(endless, endless.options, table).minimum
        (out if out.width >= needed else console(width=needed)).print(table)
        if whole and len(rows) > WORST_CLASSES:
            text = f"{len(rows) - WORST_CLASSES} more classes: {whole}"
            out.print(text, style="dim", markup=False)
    out.print(f"[bold]{split}[/bold]  {line(scalars, split)}")
    if cut_short and not rows:
        out.print(cut_short, style="dim", markup=False)


def print_complete(out: Any, run: Run) -> None:
    """For a run that has nothing left to do."""
    out.print(
        f"{run.path.name} is complete already; choose another --name to train again, or more "
        "epochs to go on.",
        markup=False,
    )
    print_result(out, run.path, (read_status(run.path) or {}).get("metrics", {}))
    print_next(out, run.path)


def print_next(out: Any, run_dir: Path) -> None:
    """Where everything is and what to type next."""
    folder = shlex.quote(shown(run_dir))
    out.print()
    report = RunFolder(run_dir).report
    page = shlex.quote(shown(report)) if report.is_file() else None
    print_fields(out, {"run folder": folder, "report": page})
    evaluate = f"{sibling('evaluate.py')} {folder} --predictions predictions.csv"
    commands = [(evaluate, "the same numbers again, and the prediction of each image")]
    offline = sorted((run_dir / "wandb").glob("**/offline-run-*"))
    if offline:
        upload = f"wandb sync {shlex.quote(shown(offline[-1]))}"
        commands.append((upload, "upload it to Weights & Biases"))
    print_commands(out, commands)


def print_submitted(out: Any, job_id: str, run_dir: Path) -> None:
    """The number of a SLURM job and the commands that look after it."""
    out.print(f"\nsubmitted as SLURM job {job_id}")
    print_commands(out, job_commands(run_dir))


def job_commands(run_dir: Path) -> list[tuple[str, str]]:
    """What to type for a submitted run, each command with its meaning."""
    jobs, run = sibling("jobs.py"), shlex.quote(shown(run_dir))
    return [
        (f"{jobs} status {run}", "state, epoch, best top-1, time left"),
        (
            f"{jobs} logs {run} -f",
            "its log as it grows; the first error if it failed",
        ),
        (f"{jobs} cancel {run}", "end it; `resume` continues it later"),
    ]
