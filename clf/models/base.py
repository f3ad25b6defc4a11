"""What every classifier shares: loss, metrics, optimizer, learning rate. Your own model
overrides `build_network`; see `clf/models/resnet.py`.

B images, C classes, H x W pixels.
"""

from typing import Any, ClassVar

import torch
from lightning import LightningModule
from torch import Tensor, nn

from clf.batch import PADDING, ClassificationBatch
from clf.config.registry import complete
from clf.config.weights import IMAGENET_MEAN, IMAGENET_STD
from clf.metrics.counts import BadLabelError, ClassificationMetrics
from clf.metrics.measures import AS_TRAINED, SPLITS, TOP_K, reported
from clf.models.head import check_logits, head_of, name_within
from clf.models.losses import Mixed, asks_for, loss_rows, quotient, spread
from clf.models.mix import Mix, swap
from clf.models.pretrained import WeightFile, load_file, load_head
from clf.optim.build import optimizer_and_schedule


class BaseClassificationModel(LightningModule):
    """Loss, optimizer, schedule and exact metrics around any network.

    Args:
        num_classes: C
        settings: those of `clf.config.ModelConfig`, and of the optimizer, schedule and loss that
            they choose (`momentum` with `optimizer="sgd"`); each has a default

    Raises:
        TypeError: a name that is no setting
    """

    takes_every_setting = True  # the registry reads signatures up to this class
    # Numbers that a subclass logs itself, each with what is best, for `checkpoint.monitor`:
    # {"val/auc": "max"}
    logs: ClassVar[dict[str, str]] = {}
    class_weights: Tensor
    class_shares: Tensor | None  # where the loss asks for it
    mean: Tensor
    std: Tensor
    mix: Mix | None = None  # of the images that train
    _compiled: Any = None  # see `compile_network`

    def __init__(self, num_classes: int, **settings: Any) -> None:
        super().__init__()
        # No `_target_`: parameters of the default class are not settings of this model.
        hp = complete("model", settings | {"num_classes": num_classes, "_target_": ""})
        self.save_hyperparameters()  # what a subclass adds, too
        self.save_hyperparameters({k: v for k, v in hp.items() if k != "_target_"})
        self.num_classes = num_classes
        top_k, class_weights = hp["top_k"], hp["class_weights"]
        self.top_k = top_k or min(TOP_K, num_classes)
        self.register_buffer("class_weights", torch.ones(num_classes))
        if class_weights is not None:
            self.set_class_weights(class_weights)
        needs_shares = "class_shares_C" in asks_for(hp["loss"])
        alike_C = torch.full((num_classes,), 1 / num_classes) if needs_shares else None
        self.register_buffer("class_shares", alike_C)
        self.register_load_state_dict_pre_hook(_shares_of_another_loss)
        for name, usual in (("mean", IMAGENET_MEAN), ("std", IMAGENET_STD)):
            of_rgb = torch.tensor(hp[name] or usual).view(3, 1, 1)
            self.register_buffer(name, of_rgb * 255, persistent=False)
        self.split_metrics = nn.ModuleDict()
        self._build_metrics(num_nodes=1, node_rank=0)
        self._counts: dict[str, tuple[Tensor, Tensor, Tensor]] = {}
        self.weights_report: list[str] = []  # what was taken from a file
        self.network = self.build_network()
        if hp["pretrained"] or hp["weights"]:
            self.load_weights()

    def build_network(self) -> nn.Module:
        """The network from normalised images [B, 3, H, W] to logits [B, C]; read `self.hparams`
        here."""
        raise NotImplementedError(f"{type(self).__name__} must define build_network()")

    def load_weights(self) -> None:
        """Fill all of the network but its head from the file `hparams["weights"]`. A network whose
        weights can be downloaded overrides this.

        Raises:
            ValueError: no such file, or weights of another architecture
        """
        name = f"{type(self).__module__}.{type(self).__qualname__}"
        if not self.hparams["weights"]:
            raise ValueError(
                f"model.pretrained=true: {name} knows no weights to download; give a file as "
                "model.weights=/path/to/file.pth, or set model.pretrained=false"
            )
        file = self.weight_file()
        self.weights_report = [load_file(self.network, file, self.heads(), self.fitted)]

    def take_head(self, classes: list[str]) -> None:
        """Fill the head from the file too, for classes in label order; ValueError if it cannot."""
        file = self.weight_file()
        self.weights_report.append(load_head(self.network, file, self.heads(), classes))

    def fitted(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """The weights of a file as this network can take them, such as for its image size; names
        and shapes may change."""
        return state

    def weight_file(self) -> WeightFile:
        """The file of weights that the settings name."""
        hp = self.hparams
        return WeightFile(
            hp["weights"], hp["weights_entry"], hp["strict_weights"], hp["weights_head"]
        )

    def head(self) -> nn.Module | None:
        """The part of the network that maps features to classes, new whatever the weights were
        trained for. A network that has another one than `head_of` finds overrides this."""
        return head_of(self.network)

    def heads(self) -> list[str]:
        """The names of the layers that stay new when weights are loaded."""
        head = name_within(self.network, self.head())
        return [] if head is None else [head]

    def recomputed_blocks(self) -> list[nn.Module]:
        """What `strategy.gradient_checkpointing` computes again in the backward pass, such as
        residual blocks; [] where a model does not allow it."""
        return []

    def set_class_weights(self, class_weights: list[float] | Tensor) -> None:
        """Weigh the classes in the loss; also called with the data's inverse frequencies.

        Raises:
            ValueError: not C finite numbers of at least 0
        """
        weights_C = torch.as_tensor(class_weights, dtype=torch.float32)
        if weights_C.shape != (self.num_classes,):
            raise ValueError(
                f"class_weights needs {self.num_classes} numbers, one per class; "
                f"got {weights_C.numel()}"
            )
        if not (torch.isfinite(weights_C).all() and (weights_C >= 0).all()):
            raise ValueError(
                f"class_weights must be finite and at least 0; got {weights_C.tolist()}"
            )
        self.class_weights.copy_(weights_C)

    def set_class_shares(self, class_shares: list[float]) -> None:
        """The share of each class among the training images, for a loss that asks for it."""
        if self.class_shares is not None:
            self.class_shares.copy_(torch.tensor(class_shares))

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Images, uint8 in 0..255 or floats already normalised, to logits [B, C]."""
        if self._compiled is None:
            return _logits(self, images_BCHW)
        logits_BC = self._compiled(self, images_BCHW)
        # A CUDA graph writes its next output to the same memory. Anything else is refused later.
        return logits_BC.clone() if isinstance(logits_BC, Tensor) else logits_BC

    def normalised(self, images_BCHW: Tensor) -> Tensor:
        """uint8 images as floats; floats as they are."""
        if images_BCHW.dtype != torch.uint8:
            return images_BCHW
        return (images_BCHW - self.mean).div_(self.std)

    @property
    def is_compiled(self) -> bool:
        """Whether torch.compile makes the network's code."""
        return self._compiled is not None

    def compile_network(self, mode: str) -> None:
        """Let torch.compile make the network's code when it meets its first images: of training,
        of evaluation, and of each size. The normalisation is a part of it, fused with the first
        layer's cast; the loss and the metrics stay as they are.

        Args:
            mode: of torch.compile; "reduce-overhead" and "max-autotune" replay CUDA graphs
        """
        # A function of the model, so that a copy, such as an average of weights, has its own
        # weights. Images have one of a few sizes: code for any size took torch 2.11 minutes on a
        # GPU, and failed in the backward pass of a ResNet whose last features are a single pixel.
        self._compiled = torch.compile(_logits, dynamic=False, mode=mode)
        if mode == "default":
            return
        for parameter in self.network.parameters():
            if parameter.requires_grad:
                # A gradient that a CUDA graph has made lies in the graph's memory, where the next
                # micro-batch's forward pass would write over it before it is accumulated.
                parameter.register_hook(torch.clone)

    def loss_fn(self, logits_BC: Tensor, labels_B: Tensor) -> Tensor:
        """The loss that is trained with: class weights and label smoothing included, a scalar."""
        return quotient(*self.loss_sums(logits_BC, labels_B))

    def loss_sums(
        self, logits_BC: Tensor, labels_B: Tensor, mixed: Mixed | None = None
    ) -> tuple[Tensor, Tensor]:
        """The loss as (sum over rows, sum of the rows' weights), computed in float32 or in the
        logits' float64.

        A label that is no class adds nothing here; the metrics report it at the epoch's end.
        """

        def known(labels_B: Tensor) -> Tensor:
            is_class_B = (labels_B >= 0) & (labels_B < self.num_classes)
            return torch.where(is_class_B, labels_B, PADDING)

        losses_B, weights_B = loss_rows(
            self.hparams["loss"],
            self.hparams,
            logits_BC.to(torch.promote_types(logits_BC.dtype, torch.float32)),
            known(labels_B),
            self.class_weights,
            self.class_shares,
            mixed and mixed._replace(labels_B=known(mixed.labels_B)),
        )
        return losses_B.sum(), weights_B.sum()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep only plain values among the arguments: with a layer's class, for example, the
        checkpoint could not be read by `torch.load(weights_only=True)`. Pretrained weights are left
        out too, since the checkpoint's own weights replace them when the model is loaded."""
        arguments = checkpoint.get(self.CHECKPOINT_HYPER_PARAMS_KEY, {})
        arguments.update({"pretrained": False, "weights": None} if arguments else {})
        for name in [name for name, value in arguments.items() if not _is_plain(value)]:
            del arguments[name]

    # --- the loops ---

    def setup(self, stage: str) -> None:
        if self.trainer.num_nodes > 1:
            self._build_metrics(self.trainer.num_nodes, self.trainer.node_rank)

    def training_step(self, batch: ClassificationBatch, batch_idx: int) -> Tensor:
        batch, mixed = self.mixed(batch, batch_idx)
        _, sums = self._step("train", batch, mixed)
        loss = spread(quotient(*sums))
        self.log("train/loss_step", loss)
        return loss

    def mixed(
        self, batch: ClassificationBatch, batch_idx: int
    ) -> tuple[ClassificationBatch, Mixed | None]:
        """A training micro-batch of this rank as the network sees it, and what is mixed in."""
        if self.mix is None:
            return batch, None
        batch = {**batch, "images": self.normalised(batch["images"])}
        # The sampler deals the micro-batches out to the ranks in turn.
        number = batch_idx * self.trainer.world_size + self.global_rank
        return self.mix(batch, self.current_epoch, number)

    def validation_step(self, batch: ClassificationBatch, batch_idx: int) -> Tensor:
        return self._step("val", batch)[0]

    def validation_step_as_trained(self, batch: ClassificationBatch) -> None:
        """Count a validation batch once more, with the weights as trained (`clf.optim.ema`)."""
        self._step(AS_TRAINED, batch)

    def test_step(self, batch: ClassificationBatch, batch_idx: int) -> Tensor:
        return self._step("test", batch)[0]

    def predict_step(self, batch: ClassificationBatch, batch_idx: int) -> Tensor:
        """Logits [B, C] of images whose labels nobody knows."""
        return self(batch["images"])

    def _step(
        self, split: str, batch: ClassificationBatch, mixed: Mixed | None = None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        logits_BC, labels_B, indices_B = self(batch["images"]), batch["labels"], batch["indices"]
        check_logits(self.network, logits_BC, (len(labels_B), self.num_classes))
        loss_sum, weight_sum = self.loss_sums(logits_BC, labels_B, mixed)
        if mixed is not None:  # it counts as the image that it shows most of
            own_B = mixed.shares_B >= 0.5
            labels_B = torch.where(own_B, labels_B, mixed.labels_B)
            indices_B = torch.where(own_B, indices_B, swap(indices_B))
        self.metrics(split).update(
            logits_BC.detach(), labels_B, loss_sum.detach(), weight_sum, indices_B
        )
        return logits_BC, (loss_sum, weight_sum)

    def on_train_epoch_end(self) -> None:
        self._log_epoch("train")

    def on_validation_epoch_start(self) -> None:
        self.metrics("val").reset()  # the sanity check has counted too
        self.metrics(AS_TRAINED).reset()

    def on_validation_epoch_end(self) -> None:
        self._log_epoch("val")
        if self.metrics(AS_TRAINED).update_called:
            self._log_epoch(AS_TRAINED)

    def on_test_epoch_start(self) -> None:
        self.metrics("test").reset()

    def on_test_epoch_end(self) -> None:
        self._log_epoch("test")

    # --- metrics ---

    def metrics(self, split: str) -> ClassificationMetrics:
        """The counts of a split ("train", "val", "val_raw", "test") in the epoch that runs."""
        metrics = self.split_metrics[f"{split}_metrics"]
        assert isinstance(metrics, ClassificationMetrics)
        return metrics

    def per_class_counts(self, split: str) -> tuple[Tensor, Tensor, Tensor]:
        """(support_NC, correct_NC, predicted_C), integers on the CPU: the counts of the split's
        last epoch over all ranks, for "val" and "test" by node (else N = 1)."""
        return self._counts[split]

    def _build_metrics(self, num_nodes: int, node_rank: int) -> None:
        for split in SPLITS:
            node = (num_nodes, node_rank) if split in ("val", "test") else (1, 0)
            metrics = ClassificationMetrics(self.num_classes, self.top_k, *node)
            self.split_metrics[f"{split}_metrics"] = metrics.to(self.class_weights.device)

    def _log_epoch(self, split: str) -> None:
        """Pattern A: compute (one sync), log, reset, once an epoch."""
        try:
            result = self.metrics(split).compute()
        except BadLabelError as error:
            raise error.naming(self._loader(split)) from None
        self.metrics(split).reset()
        support_NC, correct_NC, predicted_C = (
            result[name].cpu() for name in ("support_NC", "correct_NC", "predicted_C")
        )
        loader, counted = self._loader(split), int(support_NC.sum())
        bad = getattr(loader, "bad", None)
        skipped = 0 if bad is None else int(result["skipped"])
        self._check_total(split, counted + skipped)
        if bad is not None and split != AS_TRAINED and not self.trainer.sanity_checking:
            bad.settle(loader.split.name, skipped, counted + skipped)
            self.log(f"{split}/skipped", float(skipped))
        self._counts[split] = (support_NC, correct_NC, predicted_C)
        for measure in reported(self.top_k, self.num_classes):
            value = result[measure.name].float()
            on_bar = measure.name in ("loss", "acc_top1") and split != AS_TRAINED
            self.log(f"{split}/{measure.name}", value, prog_bar=on_bar)

    def _check_total(self, split: str, counted: int) -> None:
        """Every image of an evaluation counts once, however many ranks there are."""
        limits = {"val": self.trainer.limit_val_batches, "test": self.trainer.limit_test_batches}
        loader, limit = self._loader(split), limits.get(split)
        expected = getattr(loader, "num_images", None)
        if limit is None or expected is None or self.trainer.sanity_checking:
            return
        is_whole = limit == 1.0 if isinstance(limit, float) else limit >= len(loader)
        if is_whole and counted != expected:
            raise RuntimeError(
                f"the {split} evaluation counted {counted} images, and there are {expected}: some "
                "were left out or counted twice, so its numbers would be wrong. With a loader of "
                "your own, give each image to one rank and label the rows that fill up "
                f"{PADDING}"
            )

    def _loader(self, split: str) -> Any:
        """The loader of the split, or None before Lightning has created it."""
        return {
            "train": self.trainer.train_dataloader,
            "val": self.trainer.val_dataloaders,
            AS_TRAINED: self.trainer.val_dataloaders,
            "test": self.trainer.test_dataloaders,
        }[split]

    # --- optimizer ---

    def configure_optimizers(self) -> Any:
        epochs = self.trainer.max_epochs
        assert epochs, "the run's length is given in epochs"
        per_epoch = 1
        if self.hparams["interval"] == "step":
            per_epoch = int(self.trainer.estimated_stepping_batches) // epochs
        optimizer, scheduler = optimizer_and_schedule(
            self.network, self.head(), self.hparams, epochs, per_epoch
        )
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": self.hparams["interval"]},
        }


def _shares_of_another_loss(
    model: BaseClassificationModel, state: dict[str, Any], *more: Any
) -> None:
    """Let a run go on with another loss: keep the class shares that the model was built with, or
    drop those that it has no use for."""
    if model.class_shares is None:
        state.pop("class_shares", None)
    else:
        state.setdefault("class_shares", model.class_shares)


def _is_plain(value: Any) -> bool:
    """Whether a YAML file could hold it."""
    if isinstance(value, list | tuple):
        return all(_is_plain(one) for one in value)
    if isinstance(value, dict):
        return all(_is_plain(one) for pair in value.items() for one in pair)
    return value is None or type(value) in (bool, int, float, str)


def _logits(model: BaseClassificationModel, images_BCHW: Tensor) -> Tensor:
    return model.network(model.normalised(images_BCHW))
