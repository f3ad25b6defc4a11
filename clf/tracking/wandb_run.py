"""The run in Weights & Biases: rank 0 writes it, nothing that W&B does stops or slows the training.

Everything sent is in the run folder too, in open formats: a lost network loses nothing.
"""

import contextlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

from lightning.pytorch.loggers import Logger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only, rank_zero_warn

from clf.config import TrackingConfig
from clf.predictions import Predictions
from clf.resilience.background import Background
from clf.resilience.own import run_id
from clf.run_folder import RunFolder
from clf.tracking.charts import evaluation_charts, per_class_table
from clf.tracking.epochs import CountsEpochsFromOne
from clf.tracking.nodes import node_name
from clf.tracking.tables import PerClassRow
from clf.tracking.wandb_key import NO_KEY, has_key, unreachable

INIT_TIMEOUT_S = 20  # a job without network would wait for all of W&B's own 90 seconds
# For the upload of the rest when a process ends; a preempted one must leave within seconds.
FINISH_TIMEOUT_S = 10
LEAVE_TIMEOUT_S = 3  # for tables that W&B has not taken yet when the process must leave
UPLOAD_TIMEOUT_S = 600  # for checkpoints, when the training is over


Mode = Literal["online", "offline", "shared"]


class GuardedWandbLogger(CountsEpochsFromOne, WandbLogger):
    """Lightning's logger for a W&B run that was started already. The first failure is reported, and
    none ends the training."""

    closed = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._background = Background("clf-wandb")
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
        self._guarded(lambda: self._log_numbered(numbered, step))

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

        numbered = self.with_epoch_number({"epoch": epoch})  # of now
        self._in_background(
            lambda: self._log_numbered(numbered | {name: per_class_table(rows, before)}, step)
        )

    @rank_zero_only
    def log_evaluation(self, predictions: Predictions, pictures: Path, step: int) -> None:
        """The charts and pictures of the evaluation that ends the run (`clf.tracking.charts`).

        Args:
            pictures: <index>.jpg of some images of the split
            step: that of the evaluation's scalars
        """
        self._in_background(
            lambda: self._log_numbered(evaluation_charts(predictions, pictures), step)
        )

    @rank_zero_only
    def log_checkpoints(self, files: Sequence[Path]) -> None:
        """An artifact of the type "model" with these files, named after the run's id. Offline the
        files stay where they are, and `wandb sync` uploads them from there.

        Returns when the server has them, or after `UPLOAD_TIMEOUT_S`; nothing trains meanwhile.
        """

        if self.closed:
            return
        import wandb

        run = self.experiment
        artifact = wandb.Artifact(f"model-{run.id}", type="model")
        try:
            for file in files:
                artifact.add_file(str(file), policy="immutable")  # the default makes a copy
            logged = run.log_artifact(artifact)
            if not run.offline:
                logged.wait(timeout=UPLOAD_TIMEOUT_S)
        except Exception as error:  # as in `_guarded`; the run itself goes on
            rank_zero_warn(
                f"W&B has not taken the checkpoints ({_said(error)}). They are in "
                f"{files[0].parent}; upload them with: wandb sync {Path(run.dir).parent}"
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
        self._guarded(lambda: self.experiment.mark_preempting())

    def close(self, exit_code: int = 0) -> None:
        if not self._background.wait(LEAVE_TIMEOUT_S if exit_code else FINISH_TIMEOUT_S):
            rank_zero_warn("W&B has not taken the last table; per_class/ in the run folder has it")
        if self.closed:
            return
        self.closed = True
        folder = Path(self.experiment.dir).parent
        try:
            self.experiment.finish(exit_code=exit_code)
        except Exception as error:  # as in `_guarded`
            let_go()
            rank_zero_warn(
                f"W&B has not taken everything ({_said(error)}). It is on disk; upload the rest "
                f"with: wandb sync {folder}"
            )

    def _in_background(self, call: Callable[[], None]) -> None:
        """For tables and pictures: W&B asks its server before it takes one, and would let the
        training wait for 20 s if that does not answer."""
        if not self.closed:
            self._background.do(lambda: self._guarded(call))

    def _guarded(self, call: Callable[[], None]) -> None:
        if self.closed:
            return
        try:
            call()
        except Exception as error:  # W&B's errors have no common class, and none is worth a run
            self.closed = True
            rank_zero_warn(
                f"W&B takes no more data ({_said(error)}). The training goes on; metrics.csv and "
                "per_class/ in the run folder have everything"
            )


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
    mode = os.environ.get("WANDB_MODE", "auto") if cfg.mode == "auto" else cfg.mode
    if mode == "disabled" or getattr(rank_zero_only, "rank", 0) != 0:
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
        run, problem = _start_online(online, arguments)
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
    `FINISH_TIMEOUT_S` where the server is lost)."""
    for logger in loggers:
        if isinstance(logger, GuardedWandbLogger):
            logger.close()


def _start_online(mode: Mode, arguments: dict[str, Any]) -> tuple[Any, str]:
    """(run, "") or (None, why W&B cannot be used online)."""
    import wandb

    try:
        settings = wandb.setup().settings  # from the environment and W&B's own files
    except Exception as error:  # as in `start_run`
        return None, _said(error)
    if not (settings.api_key or has_key(settings.base_url)):
        return None, NO_KEY
    problem = unreachable(settings.base_url)
    if problem:
        return None, problem
    return start_run(mode, arguments, **({"x_label": node_name()} if mode == "shared" else {}))


def start_run(mode: Mode, arguments: dict[str, Any], **settings: Any) -> tuple[Any, str]:
    """(a run of W&B, "") or (None, why there is none).

    Args:
        arguments: of `wandb.init`
        settings: of W&B, beside our own
    """
    import wandb

    problem = ""
    for _ in range(2):
        try:
            run = wandb.init(mode=mode, settings=_settings(**settings), **arguments)
            # The SDK counts its own calls, so a resumed run would be drawn over its first part.
            run.define_metric("trainer/global_step")
            run.define_metric("*", step_metric="trainer/global_step", step_sync=True)
            return run, ""
        except Exception as error:  # W&B's errors have no common class, and none is worth a run
            problem = _said(error)
            let_go()
            # W&B's own process may be gone, or be one that the environment names and that has
            # ended. A server that does not answer is not waited for twice.
            if os.environ.pop(wandb.env.SERVICE, None) is None and mode != "offline":
                break
    return None, problem


def let_go() -> None:
    """End W&B's own process, if it is still there; takes 2 s, in which it writes its memory to the
    disk."""
    import wandb

    with contextlib.suppress(Exception):  # that process is gone, which is what is wanted
        wandb.teardown()


def _settings(**settings: Any) -> Any:
    import wandb

    return wandb.Settings(
        init_timeout=INIT_TIMEOUT_S,
        login_timeout=INIT_TIMEOUT_S,
        finish_timeout=FINISH_TIMEOUT_S,
        finish_timeout_raises=True,
        reinit="finish_previous",
        silent=True,
        # The metadata has the command line, and the output anything: both can hold secrets.
        x_disable_meta=True,
        console="off",
        disable_code=True,
        save_code=False,
        disable_git=True,
        **settings,
    )


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".rstrip(": ")
