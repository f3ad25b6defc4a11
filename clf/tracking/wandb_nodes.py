"""The system metrics of every node in the run's one page of Weights & Biases
(tracking.mode=shared).

Rank 0 writes the run. On each other node one rank joins it, and sends nothing but what W&B measures
of its machine, under the node's name.
"""

from typing import Any

import torch.distributed
from lightning import Callback, LightningModule, Trainer

from clf.atomic import say
from clf.run_folder import RunFolder
from clf.tracking.nodes import node_name
from clf.tracking.wandb_run import GuardedWandbLogger
from clf.tracking.wandb_start import start_run


class NodeMetrics(Callback):
    """Joins the run of rank 0, if it is shared, once before the training; one broadcast.

    A node that cannot join says so, and trains.
    """

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder
        self._run: Any = None
        self._has_asked = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if self._has_asked or trainer.num_nodes < 2:
            return
        self._has_asked = True
        about = [_shared_run(trainer) if trainer.is_global_zero else None]
        torch.distributed.broadcast_object_list(about, src=0)
        if about[0] is not None and trainer.node_rank and not trainer.local_rank:
            self._run = self._join(trainer.node_rank, *about[0])

    def _join(self, node_rank: int, arguments: dict[str, Any], name_of_first: str) -> Any:
        name = node_name()
        name += f"-{node_rank}" if name == name_of_first else ""
        # W&B names a folder by second and run, which other nodes would share.
        place = self.folder.wandb / "nodes" / name
        place.mkdir(parents=True, exist_ok=True, mode=0o700)
        run, problem = start_run(
            "shared",
            {**arguments, "dir": str(place)},
            x_primary=False,
            x_update_finish_state=False,
            x_label=name,
        )
        if run is None:
            say(f"W&B gets no system metrics of node {name} ({problem})")
        return run

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        # Before the final evaluation: W&B sends a summary here too, and rank 0's must be the last.
        self._finish()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        self._finish()

    def _finish(self) -> None:
        run, self._run = self._run, None
        if run is not None:
            try:
                run.finish()
            except Exception as error:  # W&B's errors have no common class, and none is worth a run
                say(f"W&B has lost the last system metrics of this node ({error})")


def _shared_run(trainer: Any) -> tuple[dict[str, Any], str] | None:
    """What another node needs to join: (arguments of `wandb.init`, name of this node)."""
    runs = [one.experiment for one in trainer.loggers if isinstance(one, GuardedWandbLogger)]
    if not runs or runs[0].settings.mode != "shared":
        return None
    run = runs[0]
    return {"id": run.id, "project": run.project, "entity": run.entity}, node_name()
