"""Scores labels with runs that were not trained on them, for launch/check_data.py."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from clf.config import ConfigError, DataConfig
from clf.config.saved import load
from clf.data.check import Report
from clf.data.findings import item_of
from clf.data.index import ImageSplits
from clf.data.inspection import Facts
from clf.data.label_errors import TITLE, Scores, read_trained_on
from clf.predictions import Predictions
from clf.run_folder import RunFolder
from launch.runs.folders import named


def runs_to_ask(names: Sequence[str]) -> list[Path]:
    """Their folders; of a sweep, those of its runs.

    Raises:
        ConfigError: no such run, or one that does not tell which images it was trained on
    """
    folders = [folder for name in names for folder in _folders(name)]
    for folder in map(RunFolder, folders):
        if not folder.best.is_file() and not folder.last.is_file():
            raise ConfigError([f"--run {folder.path}: it has no checkpoint yet; wait for its end"])
        if not folder.trained_on.is_file():
            raise ConfigError(
                [
                    f"--run {folder.path}: there is no {folder.trained_on}, so nobody knows which "
                    "images it was trained on, which it must not judge; train it again"
                ]
            )
    return folders


def _folders(name: str) -> list[Path]:
    for sweep in (Path(name).expanduser(), Path("runs", name)):
        runs = sorted(path.parent.absolute() for path in sweep.glob("*/config.yaml"))
        if runs and not (sweep / "config.yaml").is_file():
            return runs
    return [named(name, Path("runs"))]


def data_of(run: Path, root: Path) -> DataConfig:
    """The data settings of a run, for images that lie in `root` now."""
    cfg = load(RunFolder(run).config).data
    cfg.root, cfg.stage, cfg.batch_size = str(root.expanduser().absolute()), "none", 1
    return cfg


def score_labels(
    cfg: DataConfig,
    splits: ImageSplits,
    facts: Sequence[Facts],
    runs: Sequence[Path],
    report: Report,
    folder: Path,
    announce: Callable[[str], None],
) -> None:
    """Add the suspected labels to the report on these images.

    Args:
        facts: of `splits.members()`
        folder: keeps predictions that had to be made, for the next time
        announce: called with a line before something that takes long

    Raises:
        DataError: a run was trained on other data
    """
    members = splits.members()
    scores = Scores(members, facts, cfg, splits.classes)
    for run in runs:
        trained_on = read_trained_on(RunFolder(run).trained_on)
        for predictions in _predictions(run, cfg, folder, announce):
            scores.add(run.name, predictions, trained_on)
    findings, report.labels, notes = scores.findings([item_of(one, cfg) for one in members])
    report.findings = [*findings, *report.findings]
    report.notes += notes


def add_suspects(report: Report) -> None:
    """Put the images whose label is probably wrong into the list of those to leave out."""
    suspected = [
        group[0].place for one in report.findings if one.title == TITLE for group in one.groups
    ]
    report.fix_list = [*dict.fromkeys([*report.fix_list, *suspected])]


def _predictions(
    run: Path, cfg: DataConfig, folder: Path, announce: Callable[[str], None]
) -> Iterator[Predictions]:
    """Those of the evaluation that ended the run, which was of the test split where there is one;
    and those of the validation split, made now."""
    files = RunFolder(run)
    stored = {split: files.predictions_of(split) for split in ("test", "val")}
    yield from (Predictions.read(path) for path in stored.values() if path.is_file())
    if stored["val"].is_file():
        return
    kept = folder / f"{run.name}-val.npz"
    checkpoint = files.best if files.best.is_file() else files.last
    if kept.is_file() and kept.stat().st_mtime > checkpoint.stat().st_mtime:
        yield Predictions.read(kept)
        return
    announce(f"{run.name}: predicting its validation split ...")
    predictions = _predict(run, cfg)
    predictions.write(kept)
    yield predictions


def _predict(run: Path, cfg: DataConfig) -> Predictions:
    from clf.run import evaluate  # imports torch

    moved = {"root": cfg.root} if cfg.root != load(RunFolder(run).config).data.root else None
    predictions = evaluate(run, "val", None, moved, progress=False).predictions
    if predictions is None:
        raise ConfigError([f"--run {run}: test_step of its model does not return logits [B, C]"])
    return predictions
