"""Leave a run early and lose nothing: a signal sets a flag, the ranks agree on a step, all save
together and leave with `Preempted`. Who started the job decides what comes next (slurm/after.py).

No step pays for it: a thread of each rank watches the flag and the key-value store through which
the ranks met, so that no collective and no wait for the device is added to the training.
"""

import threading
from itertools import count
from pathlib import Path
from typing import Any

import torch.distributed as dist
from lightning import Callback, LightningModule, Trainer

from clf.resilience.signals import Preempted, StopRequest

POLL_S = 0.2  # between two looks at the store
AGREE_S = 60  # for all ranks to answer; one that is gone never will
LEAVE_S = 30  # for rank 0 to close its files and W&B
_RUNS = count()  # of this process
STATE = "clf_train_metrics"  # our entry in a checkpoint of the middle of an epoch


class Agreement:
    """At which boundary all ranks stop, once one of them was asked to.

    A boundary is a moment that every rank reaches equally often, such as the end of a step. Each
    rank answers with the boundary that it will reach next whatever the others do; the largest of
    the answers is where all stop. Nobody waits for an answer while another rank needs it in a
    collective: the answers come from threads.
    """

    def __init__(self, request: StopRequest) -> None:
        self.request = request
        self._store: Any = None
        self._rank, self._world_size = 0, 1
        self._lock = threading.Lock()
        self._next = 1  # boundary that this rank reaches next
        self._answered = False
        self._agreed = threading.Event()
        self._stop_at = 0
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None

    def connect(self) -> None:
        """Start to watch, once the process group is there; alone, or a second time, do nothing."""
        if self._thread is not None or not (dist.is_available() and dist.is_initialized()):
            return
        self._rank, self._world_size = dist.get_rank(), dist.get_world_size()
        if self._world_size == 1:
            return
        # A connection of its own: others wait on theirs while they hold it. All ranks count alike.
        store = dist.distributed_c10d._get_default_store().clone()
        self._store = dist.PrefixStore(f"clf/preempt/{next(_RUNS)}", store)
        self._thread = threading.Thread(target=self._watch, name="clf-preempt", daemon=True)
        self._thread.start()

    def reached(self) -> bool:
        """Say that this rank is at a boundary. True: all ranks stop here, or have passed the
        agreed one.

        Raises:
            RuntimeError: a rank did not answer; it has died
        """
        if self._thread is None:
            return self.request.signal is not None
        with self._lock:
            here = self._next
            self._next += 0 if self._answered else 1
            answered = self._answered
        if not answered:
            return False
        if not self._agreed.wait(AGREE_S):
            raise RuntimeError(f"a rank did not answer within {AGREE_S} s where to stop: it died")
        self._next += 1
        return here >= self._stop_at

    def leave_together(self) -> None:
        """Wait until rank 0 is done with its files: the first rank that ends may end the others."""
        if self._thread is None:
            return
        try:
            if self._rank == 0:
                self._store.set("left", "1")
            else:
                self._until(lambda: self._store.check(["left"]), LEAVE_S)
        except RuntimeError:  # the store went with rank 0: it has left
            return

    def close(self) -> None:
        """End the thread."""
        self._closing.set()
        if self._thread is not None:
            self._thread.join()

    def _watch(self) -> None:
        try:
            if not self._until(self._asked):
                return
            self._store.set("stop", "1")
            with self._lock:
                self._answered = True
                answer = self._next
            self._store.set(f"stop/{self._rank}", str(answer))
            keys = [f"stop/{rank}" for rank in range(self._world_size)]
            if self._until(lambda: self._store.check(keys)):
                self._stop_at = max(int(self._store.get(key)) for key in keys)
                self._agreed.set()
        except RuntimeError:  # rank 0 is gone and the store with it: the job is at its end
            return

    def _asked(self) -> bool:
        return self.request.signal is not None or self._store.check(["stop"])

    def _until(self, true: Any, seconds: float = float("inf")) -> bool:
        """Whether it came true before the closing, or before so many seconds were over."""
        waited = 0.0
        while not true():
            if waited >= seconds or self._closing.wait(POLL_S):
                return False
            waited += POLL_S
        return True


class LoaderPosition(Callback):
    """Gives the loader its place in the epoch back when a run goes on."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Lightning forgets it where the optimizer has asked for the run's length.
        trainer.fit_loop._load_combined_loader_states()


class Preemption(Callback):
    """Stops the run at a boundary when it is asked to, and saves where there is something new.

    Args:
        agreement: of the ranks of this run
        checkpoint: file that the next start goes on from
    """

    def __init__(self, agreement: Agreement, checkpoint: Path) -> None:
        self.agreement, self.checkpoint = agreement, checkpoint
        self._leaving = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self.agreement.connect()
        # Lightning's SIGTERM handler runs a collective wherever the signal finds the rank: of 15
        # runs of two ranks 9 hung. The flag of `clf.resilience.signals` stays the only handler.
        trainer._signal_connector.register_signal_handlers = lambda: None  # type: ignore[method-assign]

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        loop = trainer.fit_loop.epoch_loop
        # Not while gradients accumulate. After an epoch's last step the validation is next, and its
        # first batch is a boundary too: Lightning would resume behind the validation.
        whole = not loop._should_accumulate() and not loop._num_ready_batches_reached()
        if self.agreement.reached() and whole:
            trainer._logger_connector.update_train_step_metrics()  # would come after this hook
            self._leave(trainer, pl_module, save=True)

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, *args: Any
    ) -> None:
        if self.agreement.reached():
            in_epoch = trainer.state.fn == "fit" and not trainer.sanity_checking
            self._leave(trainer, pl_module, save=in_epoch)

    def on_test_batch_start(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        if self.agreement.reached():
            self._leave(trainer, pl_module, save=False)

    def _leave(self, trainer: Trainer, pl_module: LightningModule, save: bool) -> None:
        if save:
            self._leaving = True
            trainer.save_checkpoint(self.checkpoint)  # all ranks take part, and wait for its end
        for logger in trainer.loggers:
            if hasattr(logger, "mark_preempting"):
                logger.mark_preempting()
        signal = self.agreement.request.signal or "another rank's signal"
        raise Preempted(signal, trainer.current_epoch, trainer.global_step)

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: Any, checkpoint: dict[str, Any]
    ) -> None:
        if not self._leaving:
            return
        checkpoint[STATE] = pl_module.metrics("train").state_over_ranks()
        if trainer.validating:
            # Lightning's words for "the validation has begun and has seen no batch": it is done
            # again from its start, and nothing before it.
            begun = {"ready": 1, "started": 1, "processed": 0, "completed": 0}
            checkpoint["loops"]["fit_loop"]["epoch_loop.val_loop.batch_progress"] = {
                "total": begun,
                "current": dict(begun),
                "is_last_batch": False,
            }

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: Any, checkpoint: dict[str, Any]
    ) -> None:
        if STATE in checkpoint and trainer.state.fn == "fit":
            pl_module.metrics("train").resume_from(checkpoint[STATE], trainer.global_rank)
