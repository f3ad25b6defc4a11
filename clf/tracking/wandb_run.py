"""The run in Weights & Biases: rank 0 writes it, nothing that W&B does stops or slows the training.

Everything sent is in the run folder too, in open formats: a lost network loses nothing.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only, rank_zero_warn

from clf.config import TrackingConfig
from clf.predictions import Predictions
from clf.resilience.background import Background
from clf.resilience.own import run_id
from clf.run_folder import RunFolder
from clf.tracking import wandb_start
from clf.tracking.charts import MOST_ROWS, evaluation_charts, per_class_table
from clf.tracking.epochs import CountsEpochsFromOne
from clf.tracking.tables import PerClassRow, write_csv
from clf.tracking.wandb_key import NO_KEY
from clf.tracking.wandb_start import (
    Mode,
    chosen_mode,
    end_service,
    let_go,
    said,
    start_online,
    start_run,
)

LEAVE_TIMEOUT_S = 3  # for tables that W&B has not taken yet when the process must leave
CLOSE_TIMEOUT_S = wandb_start.FINISH_TIMEOUT_S + 3  # where W&B's own process does not react at all
MOST_WAITING = 20_000  # rows; with more, W&B's own process is taken to hang
UPLOAD_TIMEOUT_S = 600  # for checkpoints, when the training is over


class GuardedWandbLogger(CountsEpochsFromOne, WandbLogger):
    """Lightning's logger for a W&B run that was started already. The training never waits for it,
    and no failure ends the training.

    Two threads give W&B what is logged: one the scalars, the other what W&B may take long for, or
    may not take at all, which costs no scalar. The first failure of each is reported.
    """

    closed = False  # takes nothing more

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._scalars, self._media = Background("clf-wandb"), Background("clf-wandb-media")
        self._is_lost = False  # W&B has failed to take a scalar
        self._has_lost_media = self._has_cut_a_table = False
        self._latest: tuple[int | None, Any] | None = None

    @property
    def location(self) -> str:
        """The run's page; offline, the folder that `wandb sync` takes."""
        run = self.experiment
        return str(Path(run.dir).parent) if run.offline else str(run.url)

    @rank_zero_only
    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        numbered = self.with_epoch_number(metrics)
        if (step, numbered) == self._latest:
            return  # a step that was saved is logged before, and once more by Lightning
        self._latest = step, numbered
        if self._scalars.left > MOST_WAITING:
            self._lose(f"it has not taken the last {MOST_WAITING} rows")
        self._scalar(lambda: self._log_numbered(numbered, step))

    def _log_numbered(self, metrics: dict[str, Any], step: int | None) -> None:
        """Log metrics whose epoch counts from 1."""
        super().log_metrics(metrics, step)

    @rank_zero_only
    def log_per_class(
        self,
        name: str,
        rows: Sequence[PerClassRow],
        epoch: int,
        step: int | None = None,
        before: Sequence[PerClassRow] | None = None,
    ) -> None:
        """A per-class table in the dashboard; the accuracy of a class without images is empty, not
        0.

        Args:
            epoch: as Lightning counts it
            before: the rows of the epoch before, of which there are none in the first one; the
                table has the column "delta" beside the accuracy then. None: it has not
        """

        if len(rows) > MOST_ROWS:
            self._medium(lambda: self._log_whole_table(name, rows, epoch))
        numbered = self.with_epoch_number({"epoch": epoch})  # of now
        self._medium(
            lambda: self._log_numbered(numbered | {name: per_class_table(rows, before)}, step)
        )

    def _log_whole_table(self, name: str, rows: Sequence[PerClassRow], epoch: int) -> None:
        """As a file, of which each evaluation is a version. It stays beside the recording, from
        where `wandb sync` uploads it."""
        import wandb

        split, run = name.partition("/")[0], self.experiment
        path = self._recording / "per_class" / f"{split}_epoch{epoch + 1:03}.csv"
        path.parent.mkdir(exist_ok=True)
        write_csv(rows, path)
        artifact = wandb.Artifact(f"per_class-{split}-{run.id}", type="per_class")
        artifact.add_file(str(path), name=f"{split}.csv", policy="immutable")
        run.log_artifact(artifact)
        if not self._has_cut_a_table:
            rank_zero_warn(
                f"W&B shows {MOST_ROWS:,} rows of a table: {name} there has the {MOST_ROWS // 2:,} "
                f"worst and the {MOST_ROWS // 2:,} best of {len(rows):,} classes. All are in "
                f"per_class/{split}.csv of the run folder, and in the artifact {artifact.name}"
            )
        self._has_cut_a_table = True

    @rank_zero_only
    def log_evaluation(self, predictions: Predictions, pictures: Path, step: int) -> None:
        """The charts and pictures of the evaluation that ends the run (`clf.tracking.charts`).

        Args:
            pictures: <index>.jpg of some images of the split
            step: that of the evaluation's scalars
        """
        self._medium(lambda: self._log_numbered(evaluation_charts(predictions, pictures), step))

    @rank_zero_only
    def log_checkpoints(self, files: Sequence[Path]) -> None:
        """An artifact of the type "model" with these files, named after the run's id. Offline the
        files stay where they are, and `wandb sync` uploads them from there.

        Returns when the server has them, or after `UPLOAD_TIMEOUT_S`; nothing trains meanwhile.
        """

        self._medium(lambda: self._upload(files))
        if not self.closed and not self._media.wait(
            UPLOAD_TIMEOUT_S + wandb_start.FINISH_TIMEOUT_S
        ):
            self._say_not_uploaded(files, f"not within {UPLOAD_TIMEOUT_S} s")

    def _upload(self, files: Sequence[Path]) -> None:
        import wandb

        run = self.experiment
        artifact = wandb.Artifact(f"model-{run.id}", type="model")
        try:
            for file in files:
                artifact.add_file(str(file), policy="immutable")  # the default makes a copy
            logged = run.log_artifact(artifact)
            if not run.offline:
                logged.wait(timeout=UPLOAD_TIMEOUT_S)
        except Exception as error:  # as in `_medium`; the run itself goes on
            self._say_not_uploaded(files, said(error))

    def _say_not_uploaded(self, files: Sequence[Path], why: str) -> None:
        rank_zero_warn(
            f"W&B has not taken the checkpoints ({why}). They are in {files[0].parent}; upload "
            f"them with: wandb sync {self._recording}"
        )

    @rank_zero_only
    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """The whole config was given at the start."""

    @rank_zero_only
    def finalize(self, status: str) -> None:
        CountsEpochsFromOne.finalize(self, status)
        if status == "failed":  # after "success" the final evaluation still follows
            self.close(exit_code=1)

    @rank_zero_only
    def mark_preempting(self) -> None:
        """The dashboard shows "preempting" instead of "crashed" until the run goes on."""
        self._scalar(lambda: self.experiment.mark_preempting())

    def close(self, exit_code: int = 0) -> None:
        """End the run, within `CLOSE_TIMEOUT_S` of scalars and less than that of tables."""
        if self.closed:
            return
        patience = LEAVE_TIMEOUT_S if exit_code else wandb_start.FINISH_TIMEOUT_S
        if not self._is_lost and not self._media.wait(patience):
            rank_zero_warn("W&B has not taken the last table; per_class/ in the run folder has it")
        self._scalar(lambda: self._finish(exit_code))
        self.closed = True
        if self._is_lost:
            let_go()
        elif not self._scalars.wait(CLOSE_TIMEOUT_S):
            self._is_lost = True  # what the threads still wait for fails now
            self._say_unfinished("its own process does not react")
            end_service()  # else Python would wait for it when it ends

    @property
    def _recording(self) -> Path:
        return Path(self.experiment.dir).parent

    def _finish(self, exit_code: int) -> None:
        try:
            self.experiment.finish(exit_code=exit_code)
        except Exception as error:  # as in `_scalar`
            let_go()
            self._say_unfinished(said(error))

    def _say_unfinished(self, why: str) -> None:
        rank_zero_warn(
            f"W&B has not taken everything ({why}). It is on disk; upload the rest "
            f"with: wandb sync {self._recording}"
        )

    def _scalar(self, call: Callable[[], None]) -> None:
        """Do it in order, unless W&B has failed before."""

        def guarded() -> None:
            if self._is_lost:
                return
            try:
                call()
            except Exception as error:  # W&B's errors have no common class; none is worth a run
                self._lose(said(error))

        if not self.closed and not self._is_lost:
            self._scalars.do(guarded)

    def _lose(self, why: str) -> None:
        if self._is_lost:
            return
        self._is_lost = True
        rank_zero_warn(
            f"W&B takes no more data ({why}). The training goes on; metrics.csv and per_class/ in "
            f"the run folder have everything. Upload what W&B has: wandb sync {self._recording}"
        )

    def _medium(self, call: Callable[[], None]) -> None:
        """For tables and pictures: W&B asks its server before it takes one, for up to 20 s if that
        does not answer, and moves files, which a full disk refuses."""

        def guarded() -> None:
            if self._is_lost:
                return
            try:
                call()
            except Exception as error:  # as in `_scalar`
                if not self._has_lost_media and not self._is_lost:
                    rank_zero_warn(
                        f"W&B has not taken a table or picture ({said(error)}), and may not take "
                        "others. The training goes on; they are in per_class/, predictions/ and "
                        "pictures/ of the run folder"
                    )
                self._has_lost_media = True

        if not self.closed and not self._is_lost:
            self._media.do(guarded)


def wandb_logger(
    cfg: TrackingConfig, folder: RunFolder, config: dict[str, Any], name: str
) -> GuardedWandbLogger | None:
    """Start the W&B run of this folder, or go on with it; None if disabled or not on rank 0.

    A run that should be online is recorded offline if the server cannot be reached or refuses the
    key. A warning says so within half a minute, and how to upload the run.

    Args:
        cfg: `mode`, and where the run goes
        folder: the run's files go to `<folder>/wandb`; it has the id of the run
        config: plain values, shown in the dashboard
        name: of the run in the dashboard
    """
    if getattr(rank_zero_only, "rank", 0) != 0:
        return None
    mode = chosen_mode() if cfg.mode == "auto" else cfg.mode
    if mode == "disabled":
        return None
    arguments: dict[str, Any] = {
        "project": cfg.project,
        "entity": cfg.entity,
        "group": cfg.group,
        "tags": list(cfg.tags),
        "name": name,
        "id": run_id(folder),
        "dir": str(folder.path),
        "config": config,
        "resume": "allow",
    }
    run, problem = None, ""
    if mode != "offline":
        online: Mode = "shared" if mode == "shared" else "online"
        run, problem = start_online(online, arguments)
    if problem and not (mode == "auto" and problem == NO_KEY):
        rank_zero_warn(
            f"W&B cannot be used online ({problem}). The run is recorded offline; upload it "
            f"later with: wandb sync {folder.wandb}/offline-run-*"
        )
    if run is None:
        run, problem = start_run("offline", arguments)
    if run is None:
        rank_zero_warn(f"W&B is left out ({problem}); metrics.csv and per_class/ have everything")
        return None
    return GuardedWandbLogger(experiment=run, save_dir=str(folder.path))


def close(loggers: Sequence[Logger]) -> None:
    """End the W&B run: all is on disk, or on the server, when this returns (within seconds;
    `wandb_start.FINISH_TIMEOUT_S` where the server is lost)."""
    for logger in loggers:
        if isinstance(logger, GuardedWandbLogger):
            logger.close()
