"""An exponential moving average of the weights: `ema.decay=0.999`.

After each optimizer step the average moves by 1 - decay towards the weights (Polyak and Juditsky
1992; Tarvainen and Valpola 2017, arXiv 1703.01780). It is evaluated and kept in the place of the
weights as trained: `val/*`, `test/*` and a checkpoint's `state_dict` are of the average,
`val_raw/*` and a checkpoint's `clf_ema` of the weights as trained.

Lightning's own `WeightAveraging` evaluates the average alone, and under ZeRO it has neither the
weights of the other ranks nor a checkpoint from which a run goes on.
"""

from typing import Any

from lightning import Callback, LightningModule, Trainer
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn

from clf.parallel.batchnorm import average_over_ranks, gather_over_ranks, statistics, take_own
from clf.parallel.weights import exchange_parts, load_whole, own_parts

# Our entry in a checkpoint: "weights", the state dict as trained, whole tensors under every
# strategy; "updates", the number of steps that are in the average; and in mid-epoch
# "statistics_Wn", the averaged statistics of BatchNorm as each rank had them
AS_TRAINED = "clf_ema"


class WeightsAsTrained(Callback):
    """Lets a run go on with the weights as trained where the `state_dict` of its checkpoint holds
    their average; also if it does not average them any more."""

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        # Lightning has loaded the average by now, and no strategy has wrapped or sharded the model.
        if trainer.state.fn == "fit" and AS_TRAINED in checkpoint:
            pl_module.load_state_dict(checkpoint[AS_TRAINED]["weights"])


class WeightAverage(Callback):
    """Averages the parameters and BatchNorm's running statistics over the optimizer's steps.

    Each rank averages its own memory of them: whole tensors, ZeRO-3's shards, the statistics of its
    own images. So a step needs no collective, and nothing waits for the device. Running statistics
    are linear in those of the batches, so their averages may be averaged over ranks at any time,
    which happens where they are used (see `AgreeOnBatchNorm`). Other buffers are not averaged.

    To evaluate or save the average, its contents change places with those of the live weights, and
    afterwards back; every bit is restored. A step that a gradient scaler skips (strategy.precision=
    16-mixed) counts as one in which the weights stayed as they were.

    Args:
        decay: share of the average that a step keeps
        warmup: keep (1 + t) / (10 + t) at most after t steps, as TensorFlow's
            `ExponentialMovingAverage` does
    """

    copies_of_weights = 2  # the average, and a spare one while they change places

    def __init__(self, decay: float, warmup: bool = True) -> None:
        self.decay, self.warmup = decay, warmup
        self.updates = 0
        self._live: list[Tensor] = []  # the model's own memory
        self._other: list[Tensor] = []  # the average; while it is evaluated, the weights as trained
        self._statistics: list[Tensor] = []  # those of `_other` that are BatchNorm's
        self._evaluating = False  # whether the model holds the average
        self._differ = False  # whether the ranks' averaged statistics may differ
        self._step = 0  # optimizer steps that have been seen
        self._loaded: tuple[dict[str, Tensor], dict[str, Any]] | None = None  # average, entry

    # --- begin and go on ---

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        if trainer.state.fn == "fit" and AS_TRAINED in checkpoint:
            self._loaded = checkpoint["state_dict"], checkpoint[AS_TRAINED]

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        buffers = statistics(pl_module)
        self._live = own_parts(trainer.strategy, pl_module) + buffers
        self._other = [tensor.detach().clone() for tensor in self._live]
        self._statistics = self._other[len(self._other) - len(buffers) :]
        if self._loaded is not None:
            state, entry = self._loaded
            self.updates = entry["updates"]
            self._exchange(trainer)
            load_whole(trainer.strategy, pl_module, state)
            self._exchange(trainer)
            of_ranks_Wn = entry.get("statistics_Wn")
            self._differ = of_ranks_Wn is not None and take_own(self._statistics, of_ranks_Wn)
            self._loaded = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._step = trainer.global_step

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._live, self._other, self._statistics = [], [], []

    # --- a step ---

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        if trainer.global_step == self._step:
            return  # gradients are being accumulated
        self._step = trainer.global_step
        self.updates += 1
        t = self.updates
        decay = min(self.decay, (1 + t) / (10 + t)) if self.warmup else self.decay
        get_ema_multi_avg_fn(decay)(self._other, self._live, t)
        self._differ = True

    # --- an evaluation ---

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # The final evaluation has loaded the average from the best checkpoint.
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._agree()
            self._exchange(trainer)
            self._evaluating = True

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, *args: Any
    ) -> None:
        if self._evaluating:
            self._exchange(trainer)
            with trainer.precision_plugin.val_step_context():
                pl_module.validation_step_as_trained(batch)
            self._exchange(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._evaluating:
            self._exchange(trainer)
            self._evaluating = False

    # --- a checkpoint ---

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        if not self._live:
            return
        of_ranks_Wn = gather_over_ranks(self._statistics) if self._differ else None
        self._agree()
        held = self._kept(checkpoint["state_dict"])
        self._exchange(trainer)
        other = self._kept(trainer.strategy.lightning_module_state_dict())
        self._exchange(trainer)
        average, trained = (held, other) if self._evaluating else (other, held)
        checkpoint["state_dict"] = average
        checkpoint[AS_TRAINED] = {"weights": trained, "updates": self.updates}
        if of_ranks_Wn is not None:
            checkpoint[AS_TRAINED]["statistics_Wn"] = of_ranks_Wn.cpu()
            self._differ = take_own(self._statistics, of_ranks_Wn)

    def _kept(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """A state dict that the next exchange leaves alone."""
        changing = {tensor.data_ptr() for tensor in self._live}
        return {
            name: value.to("cpu", copy=True) if value.data_ptr() in changing else value
            for name, value in state.items()
        }

    def _agree(self) -> None:
        if self._differ:
            assert not self._evaluating, "the ranks agree before an evaluation"
            average_over_ranks(self._statistics)
        self._differ = False

    def _exchange(self, trainer: Trainer) -> None:
        exchange_parts(trainer.strategy, self._live, self._other)
