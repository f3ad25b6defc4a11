"""What a command prints before and after a run: the run in four lines, its per-class table, and
what to type next."""

import shlex
import sys
from pathlib import Path
from typing import Any

from clf.config import RunConfig
from clf.metrics.measures import line
from clf.run_folder import read_status
from launch.runs.folders import Run, shown

WORST_CLASSES = 15  # rows of the table; per_class/test.csv has all


def console() -> Any:
    """Rich's console; plain text where the output is no terminal."""
    from rich.console import Console

    return Console(highlight=False, soft_wrap=not sys.stdout.isatty())


def print_run(out: Any, cfg: RunConfig, run: Run, where: str) -> None:
    """The run in a few lines."""
    model, data = cfg.model, cfg.data
    classes = f"{model.num_classes} classes" if model.num_classes else "classes as the folder has"
    epochs = "1 epoch" if cfg.epochs == 1 else f"{cfg.epochs} epochs"
    fields: dict[str, str | None] = {
        "run": f"{cfg.name}"
        + ("  (goes on where it stopped)" if run.state == "unfinished" else ""),
        "folder": shown(run.path),
        "data": f"{data.name}, {classes}, {data.image_size} px",
        "model": f"{model._target_.rpartition('.')[2]}"
        + (
            f", weights {model.weights or 'of ImageNet'}"
            if model.pretrained or model.weights
            else ""
        ),
        "training": f"{epochs}, {data.batch_size} images a step, seed {cfg.seed}",
        "on": where,
    }
    print_fields(out, fields)


def print_fields(
    out: Any, fields: dict[str, str | None], styles: dict[str, str] | None = None
) -> None:
    """A line a field, unwrapped; an empty one is left out. `styles`: of the text, by field."""
    from rich.text import Text

    width = max(map(len, fields)) + 2
    for name, text in fields.items():
        if text:
            line = Text(name.ljust(width), style="dim")
            line.append(text, style=(styles or {}).get(name, "default"))
            out.print(line, soft_wrap=True)


def print_result(out: Any, run_dir: Path, scalars: dict[str, Any]) -> None:
    """The per-class table of a run's final evaluation, its numbers, and why it stopped early if it
    did."""
    from clf.tracking.tables import read_csv

    split = "test" if any(name.startswith("test/") for name in scalars) else "val"
    path = run_dir / "per_class" / f"{split}.csv"
    print_table(out, read_csv(path) if path.is_file() else [], split, scalars, shown(path))
    if reason := (read_status(run_dir) or {}).get("stopped_early"):
        out.print(f"The training {reason}", markup=False)


def print_table(
    out: Any, rows: list[Any], split: str, scalars: dict[str, Any], more: str = ""
) -> None:
    """The worst classes of `rows`, and the numbers of the whole split."""
    from clf.tracking.tables import WorstClasses

    out.print()
    if rows:
        out.print(WorstClasses(rows, f"{split}: accuracy by class, worst first", WORST_CLASSES))
        if more and len(rows) > WORST_CLASSES:
            out.print(f"{len(rows) - WORST_CLASSES} more classes: {more}", style="dim")
    out.print(f"[bold]{split}[/bold]  {line(scalars, split)}")


def print_complete(out: Any, run: Run) -> None:
    """For a run that has nothing left to do."""
    out.print(f"{run.path.name} is complete already; choose another --name to train again.")
    print_result(out, run.path, (read_status(run.path) or {}).get("metrics", {}))
    print_next(out, run.path)


def print_next(out: Any, run_dir: Path) -> None:
    """Where everything is and what to type next."""
    folder = shlex.quote(shown(run_dir))
    out.print(f"\n[dim]run folder[/dim]  {folder}")
    commands = [
        (
            f"python launch/evaluate.py {folder} --predictions predictions.csv",
            "the same numbers again, and each image's",
        ),
    ]
    offline = sorted((run_dir / "wandb").glob("**/offline-run-*"))
    if offline:
        commands.append(
            (f"wandb sync {shlex.quote(shown(offline[-1]))}", "upload it to Weights & Biases")
        )
    print_commands(out, commands)


def print_commands(out: Any, commands: list[tuple[str, str]]) -> None:
    """Commands on lines of their own, unwrapped, so that they can be copied."""
    for command, meaning in commands:
        out.print(f"  [dim]# {meaning}[/dim]")
        out.print(f"  {command}", markup=False, soft_wrap=True, style="cyan")


def again(name: str, argv: list[str]) -> str:
    """This command once more, for the run of that name."""
    named = any(word == "--name" or word.startswith(("--name=", "name=")) for word in argv)
    return f"python {shlex.join([sys.argv[0], *argv, *([] if named else ['--name', name])])}"


def debug_command(argv: list[str]) -> str:
    """The same run in one process, under a name of its own."""
    flags = ("--name", "--nodes", "--gpus")
    kept = [
        word
        for before, word in zip(["", *argv], argv, strict=False)
        if word not in flags and before not in flags
        if not word.removeprefix("--").startswith(("name=", "nodes=", "gpus="))
    ]
    program = sys.argv[0].replace("submit.py", "train.py")
    return f"python {shlex.join([program, *kept, '--debug'])}"
