"""A run that hangs is found and ended: `Watchdog` says which rank stalled, and where every rank is.

A rank stalls when it passes no mark of its step for `hang_timeout_s`. A thread of each rank looks
at that; a second one publishes the rank's last mark in the key-value store through which the ranks
met, and reads what the others published. So a step gets no collective and no wait for the device:
a mark is one addition. A rank whose threads are silent too was stopped (SIGSTOP), or its machine
was.

Whoever finds a hang tells the others. Each writes its stacks, the lowest rank that can writes the
report, and all exit with `EXIT_HANG`. slurm/after.py decides what comes next.
"""

import json
import os
import signal
import threading
import time
import traceback
from collections.abc import Mapping
from dataclasses import asdict
from itertools import count
from typing import Any

import torch.distributed as dist
from lightning import Callback, LightningModule, Trainer

from clf.parallel import lightning_internals as internals
from clf.resilience.beats import EXIT_HANG, Beat, Still, behind
from clf.resilience.hang_report import Hang, in_a_debugger, report, write_stacks
from clf.resilience.processes import Process, machine, this_process
from clf.resilience.signals import held
from clf.run_folder import RunFolder

POLL_S = 5.0  # between two looks, at most
AGREE_S = 5  # for the store to say which rank's finding counts
REPORT_S = 20  # for the report; a file system that hangs must not keep the ranks
_WATCHES = count()  # numbers the watches of this process, which all ranks begin together


class Watchdog(Callback):
    """Ends the run when a rank hangs.

    Args:
        timeout_s: seconds without a mark after which a rank hangs
        node: the name of this rank's machine
        compiles: whether the first batch of an epoch may compile the network, which takes its time
    """

    def __init__(self, timeout_s: float, folder: RunFolder, node: str, compiles: bool) -> None:
        self.timeout_s, self.folder, self.node, self.compiles = timeout_s, folder, node, compiles
        self.poll_s = min(POLL_S, timeout_s / 10)
        self._rank, self._world_size, self._store = 0, 1, None  # type: int, int, Any
        self._trainer: Any = None
        self._main = threading.get_ident()
        self._process = this_process()
        self._marks, self._doing, self._watched = 0, "it starts", False
        self._idle_s = 0.0
        self._rounds = 0  # answers of the store
        self._table: dict[int, Beat] = {}  # the newest that this rank has read
        self._silent = Still(2 * self.poll_s)  # of the ranks in the table
        self._suspected: Hang | None = None
        self._told: Hang | None = None
        self._closing, self._ending = threading.Event(), threading.Event()
        self._threads: list[threading.Thread] = []

    # --- what the training says -------------------------------------------------------------------

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._trainer, self._main = trainer, threading.get_ident()
        self._quiet("it starts")
        self._closing.clear()
        targets = [self._judge]
        if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
            self._rank, self._world_size = dist.get_rank(), dist.get_world_size()
            store = internals.process_group_store()
            self._store = dist.PrefixStore(f"clf/hang/{next(_WATCHES)}", store)
            self._publish(0)  # now, so that no rank trains before all are known
            targets.append(self._exchange)
        self.folder.stacks(self._rank).unlink(missing_ok=True)
        with held():  # signals are for the main thread
            self._threads = [
                threading.Thread(target=one, name=f"clf-watchdog{one.__name__}", daemon=True)
                for one in targets
            ]
            for thread in self._threads:
                thread.start()

    def on_train_epoch_start(self, *args: Any) -> None:
        if self.compiles:
            self._quiet("it compiles the network")
        else:
            self._mark("it waits for its next batch")

    def on_train_batch_start(self, *args: Any) -> None:
        self._marks += 1
        self._doing = "it is in the forward pass"

    def on_before_backward(self, *args: Any) -> None:
        self._marks += 1
        self._doing = "it is in the backward pass, or waits there for others"

    def on_before_optimizer_step(self, *args: Any) -> None:
        self._marks += 1
        self._doing = "it is at the optimizer's step"

    def on_train_batch_end(self, *args: Any) -> None:
        self._mark("it waits for its next batch")

    def on_train_epoch_end(self, *args: Any) -> None:
        self._quiet("it is between two epochs")

    def on_validation_start(self, *args: Any) -> None:
        self._quiet("it validates")

    def on_save_checkpoint(self, *args: Any) -> None:
        self._quiet("it saves")

    def on_train_end(self, *args: Any) -> None:
        self._quiet("it has trained")

    def on_exception(self, *args: Any) -> None:
        self.close()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self.close()

    def close(self) -> None:
        """End the threads, and tell the others that this rank leaves in order."""
        self._quiet("it leaves")
        self._closing.set()
        if self._ending.is_set():
            # What this thread met is the end of another rank. The report is worth more.
            threading.Event().wait(REPORT_S + AGREE_S)
        for thread in self._threads:
            thread.join(2 * self.poll_s)  # a store whose rank is stopped would keep it for ever
        self._threads = []

    def _mark(self, doing: str) -> None:
        self._marks += 1
        self._doing, self._watched = doing, True

    def _quiet(self, doing: str) -> None:
        """The rank may take its time for this; it is heard of all the same."""
        self._doing, self._watched = doing, False

    # --- what the ranks say to each other ---------------------------------------------------------

    def _exchange(self) -> None:
        keys = [f"beat/{rank}" for rank in range(self._world_size)]
        last = time.monotonic()
        try:
            for number in count(1):
                self._hear_of_a_hang()
                # Rank 0 looks at all others. They look when they have a reason, and once before, so
                # that a rank can be named when the store is gone with rank 0.
                curious = self._rank == 0 or self._idle_s > self.timeout_s / 2 or not self._table
                if curious and self._store.check(keys):
                    now = time.monotonic()
                    self._take(self._store.multi_get(keys), now - last)
                    last = now
                self._rounds += 1
                closing = self._closing.wait(self.poll_s)
                self._publish(number, closing)
                if closing:
                    return
        except RuntimeError:  # rank 0 has exited, and the store with it: the job is ending
            return

    def _publish(self, number: int, done: bool = False) -> None:
        self._store.set(f"beat/{self._rank}", json.dumps(asdict(self._beat(number, done))))

    def _hear_of_a_hang(self) -> None:
        if self._suspected is not None:
            mine = json.dumps(asdict(self._suspected))
            self._told = Hang(**json.loads(self._store.compare_set("hang", "", mine)))
        elif self._store.check(["hang"]):
            self._told = Hang(**json.loads(self._store.get("hang")))

    def _take(self, texts: list[bytes], gap_s: float) -> None:
        table = {rank: Beat(**json.loads(text)) for rank, text in enumerate(texts)}
        self._silent.look({rank: one.number for rank, one in table.items() if not one.done}, gap_s)
        self._table = table

    def _beat(self, number: int, done: bool) -> Beat:
        trainer = self._trainer
        return Beat(
            *(self.node, machine(), self._process.pid, self._process.began),
            *(number, self._marks, self._doing, self._watched),
            *(trainer.current_epoch, trainer.global_step, done),
        )

    # --- what is wrong, and the end ---------------------------------------------------------------

    def _judge(self) -> None:
        own, last = Still(2 * self.poll_s), time.monotonic()
        while not self._closing.wait(self.poll_s):
            now = time.monotonic()
            busy = not self._watched or in_a_debugger(self._main)
            marks = object() if busy else self._marks  # equal to nothing seen before
            own.look({"marks": marks, "store": self._rounds}, now - last)
            last = now
            self._idle_s = own.seconds["marks"]
            found = self._told or self._find(own.seconds["store"])
            if found is not None:
                self._end(found)

    def _find(self, unanswered_s: float) -> Hang | None:
        """The hang that this rank sees.

        Args:
            unanswered_s: seconds since the store's last answer
        """
        if self._watched and self._idle_s <= self.timeout_s / 2:
            return None  # it trains, and so do the others, even if one cannot say so
        stalled = self._idle_s > self.timeout_s
        if self._rank != 0:
            store_s = self.timeout_s / 4 if stalled else self.timeout_s
            if unanswered_s > store_s:
                return self._hang([0], True, self._table)
        table = dict(self._table)
        # A rank that stalls in a collective waits for the one that was stopped a moment earlier.
        enough_s = self.timeout_s / 4 if stalled else self.timeout_s
        silent = [rank for rank, one in table.items() if self._silences(rank, one) > enough_s]
        if silent:
            return self._hang(silent, True, table)
        if not stalled:
            return None
        table[self._rank] = self._beat(0, False)
        ranks = behind(table) if len(table) == self._world_size else []
        if not all(table[rank].watched for rank in ranks):
            return None  # this rank waits for one that still writes what an evaluation gave
        return self._hang(ranks, False, table)

    def _silences(self, rank: int, beat: Beat) -> float:
        return 0.0 if beat.done or rank == self._rank else self._silent.seconds.get(rank, 0.0)

    def _hang(self, ranks: list[int], stopped: bool, table: Mapping[int, Beat]) -> Hang:
        known = table.get(ranks[0]) if ranks else self._beat(0, False)
        return Hang(
            ranks=ranks,
            stopped=stopped,
            nodes=[table[rank].node if rank in table else "an unknown node" for rank in ranks],
            doing=known.doing if known else "",
            epoch=known.epoch if known else self._trainer.current_epoch,
            step=known.step if known else self._trainer.global_step,
            timeout_s=self.timeout_s,
            world_size=self._world_size,
        )

    def _end(self, found: Hang) -> None:
        """Write what is known and end this process; never returns."""
        limit = threading.Timer(REPORT_S + AGREE_S, os._exit, [EXIT_HANG])
        limit.daemon = True
        limit.start()
        self._ending.set()
        try:
            if self._world_size > 1 and self._told is None:
                self._suspected = found
                _until(lambda: self._told is not None, AGREE_S)
                found = self._told or found
            write_stacks(self.folder, self._rank, self.node, self._main)
            if self._rank == found.reporter:
                report(self.folder, found, REPORT_S / 2)
            else:
                record = self.folder.error(found.named)
                _until(record.exists, REPORT_S)
            self._kill_stopped(found)
        except Exception:  # such as a full disk: the log has it, and the process ends all the same
            traceback.print_exc()
        finally:
            os._exit(EXIT_HANG)

    def _kill_stopped(self, found: Hang) -> None:
        """End the stopped ranks of this machine. SLURM does so too; nobody else would here."""
        for rank in found.ranks if found.stopped else []:
            beat = self._table.get(rank)
            if beat is None or beat.machine != machine() or rank == self._rank:
                continue
            if Process(beat.pid, beat.began).lives():
                os.kill(beat.pid, signal.SIGKILL)


def _until(condition: Any, seconds: float) -> None:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.1)
