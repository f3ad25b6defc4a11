"""What a run is: the typed schema behind every YAML file and every `key=value`.

Plain dataclasses, so that `cfg.data.batch_size` completes in an editor; no torch here, so that a
config is checked in milliseconds on a login node. A field's comment gives its unit; its limits
stand in its metadata, where `clf.config.compose.check` reads them.
"""

from dataclasses import dataclass, field
from typing import Any

from clf.config.slurm_words import TIME_FORMS, minutes


def one_of(default: str, *others: str) -> Any:
    """A text field that takes `default` or one of `others`."""
    return field(default=default, metadata={"choices": (default, *others)})


def within(default: Any, low: float, high: float = float("inf")) -> Any:
    """A number (or None, where the type allows it) from `low` to `high`, both included."""
    return field(default=default, metadata={"low": low, "high": high})


def written_as(pattern: str, example: str) -> Any:
    """A text (or None) that `pattern` must match as a whole; it goes into a job script."""
    return field(default=None, metadata={"pattern": pattern, "example": example})


def time_limit() -> Any:
    """Minutes (or None); `assign` reads a text in one of SLURM's forms by `read`."""
    limits = {"low": 1, "high": float("inf")}
    return field(default=None, metadata={**limits, "read": minutes, "expected": TIME_FORMS})


NAMES = r"[\w.,+@:/=-]+"  # of SLURM, separated by commas: nothing that a shell would read
HOSTS = r"[\w.,\[\]-]+"


@dataclass
class ModelConfig:
    """The network, its loss and its optimizer: a model class's arguments, flat."""

    _target_: str = "clf.models.resnet.ResNet18Model"  # class to build; its package must be trusted
    num_classes: int | None = within(None, 2)  # None: as many as the data has
    pretrained: bool = False  # start from the model's default ImageNet weights
    weights: str | None = None  # torchvision's name (IMAGENET1K_V2) or a .pth/.ckpt file
    learning_rate: float = within(5e-4, 0.0)  # peak, reached after the warm-up
    # AdamW's; not applied to biases and normalisation layers
    weight_decay: float = within(0.05, 0.0)
    label_smoothing: float = within(0.0, 0.0, 1.0)
    class_weights: list[float] | None = None  # a weight per class in the loss, in label order
    warmup_epochs: int = within(1, 0)  # epochs of linear warm-up; 0: none
    warmup_start_factor: float = within(0.1, 1e-9, 1.0)  # first learning rate / peak
    cosine_eta_min_factor: float = within(0.01, 0.0, 1.0)  # last learning rate / peak
    # the learning rate moves every optimizer step or every epoch
    interval: str = one_of("step", "epoch")
    # second accuracy: label among the k best; None: min(5, num_classes)
    top_k: int | None = within(None, 1)


@dataclass
class AugmentConfig:
    """Training-time augmentation, drawn from each sample's own generator; probability 0: off."""

    # share of the image's area
    crop_scale: list[float] = field(default_factory=lambda: [0.35, 1.0])
    crop_ratio: list[float] = field(default_factory=lambda: [0.75, 1.3333])  # width / height
    horizontal_flip: float = within(0.5, 0.0, 1.0)  # probability; 0 for digits and numbers
    brightness: float = within(0.0, 0.0)  # colour jitter: factor drawn from 1 -+ this
    contrast: float = within(0.0, 0.0)
    saturation: float = within(0.0, 0.0)
    hue: float = within(0.0, 0.0, 0.5)  # turn of the colour circle, drawn from -+ this
    policy: str = one_of("none", "rand_augment", "trivial_augment")
    rand_augment_ops: int = within(2, 1)  # operations per image
    rand_augment_magnitude: int = within(9, 0, 30)  # of 30
    # probability of JPEG compression, for footage and web images
    jpeg: float = within(0.0, 0.0, 1.0)
    jpeg_quality: list[int] = field(default_factory=lambda: [15, 70])
    noise: float = within(0.0, 0.0, 1.0)  # probability of Gaussian noise
    noise_std: float = within(10.0, 0.0)  # in grey levels of 255
    erasing: float = within(0.0, 0.0, 1.0)  # probability of random erasing


@dataclass
class JerseyConfig:
    """The rendered jersey-number data set (data=jersey)."""

    images: int = within(6000, 430)  # over all splits
    size: int = within(96, 16, 1024)  # pixels a side
    imbalance: float = within(30.0, 1.0)  # images of the largest class / of the smallest
    seed: int = within(0, 0)


@dataclass
class DataConfig:
    """Where images come from and how they become batches."""

    name: str = one_of("digits", "jersey", "imagefolder", "annotations")
    root: str | None = None  # folder of images; digits, jersey: made there, None: data/<name>
    batch_size: int = within(64, 1)  # images per optimizer step, over all ranks
    # images per forward pass of a rank; None: batch_size / ranks; auto: as many as memory holds.
    # The rest of a step is accumulated
    micro_batch_size: Any = None
    # images per forward pass of a rank; None: the micro-batch
    eval_batch_size: int | None = within(None, 1)
    image_size: int = within(224, 8, 4096)  # pixels a side, as the model sees it
    # pixels of the short side before the centre crop; None: size/0.875
    eval_resize: int | None = within(None, 8)
    # decoding threads per rank; None: its share of the cores; 0: none
    threads: int | None = within(None, 0)
    prefetch: int = within(4, 1)  # batches made ahead
    val_fraction: float = within(0.1, 0.0, 0.9)  # of one folder without train/val/test folders
    test_fraction: float = within(0.1, 0.0, 0.9)
    split_seed: int = within(0, 0)
    # node: copy root (a folder or a tar file) to each node's own disk before training
    stage: str = one_of("none", "node")
    stage_dir: str | None = None  # on the node; None: $SLURM_TMPDIR, else $TMPDIR or /tmp
    origin: str | None = None  # root, before the job replaced it by the node's copy; not to be set
    sampler: str = one_of("shuffle", "class_balanced")  # class_balanced: every class equally often
    class_weights: str = one_of("none", "inverse_frequency")  # in the loss
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    jersey: JerseyConfig = field(default_factory=JerseyConfig)


@dataclass
class StrategyConfig:
    """How the work is spread over devices, and in which precision."""

    # auto: single on one device, ddp on more; deepspeed_zero1 shards the optimizer's state over
    # devices, zero2 gradients too, zero3 weights too
    name: str = one_of(
        "auto", "single", "ddp", "deepspeed_zero1", "deepspeed_zero2", "deepspeed_zero3"
    )
    accelerator: str = one_of("auto", "cpu", "gpu")  # auto: GPUs where there are any
    # auto: bf16-mixed on a GPU that has it
    precision: str = one_of("auto", "32-true", "bf16-mixed", "16-mixed")
    offload_optimizer: bool = False  # its state and step on the CPU (deepspeed_*)
    offload_parameters: bool = False  # weights in the CPU's memory until used (deepspeed_zero3)
    channels_last: bool = True  # memory format of images and convolutions
    gradient_clip: float | None = within(None, 0.0)  # largest norm of the whole gradient
    gradient_checkpointing: bool = False  # less memory, a third more time, the same numbers
    sync_batchnorm: bool = False  # normalise by the statistics of all ranks' images
    deterministic: bool = False  # only algorithms that give the same bits on a GPU; slower
    compile: bool = False  # torch.compile the network


@dataclass
class CheckpointConfig:
    monitor: str = "val/acc_top1"  # "best" is judged by this
    mode: str = one_of("max", "min")


@dataclass
class EarlyStoppingConfig:
    patience: int | None = within(None, 1)  # epochs without a better checkpoint.monitor; None: off
    min_delta: float = within(0.0, 0.0)  # least change that counts as better


@dataclass
class TrackingConfig:
    # W&B; auto: online with a key, else offline
    mode: str = one_of("auto", "online", "offline", "disabled")
    project: str = "clf"
    entity: str | None = None
    group: str | None = None
    tags: list[str] = field(default_factory=list)
    class_scalars: bool = False  # also log val/acc_class/<name> as scalars
    log_every: int = within(10, 1)  # optimizer steps between logged scalars


@dataclass
class ContainerConfig:
    """The container that a job's Python runs in."""

    image: str | None = None  # file or registry name; None: no container
    runtime: str = one_of("pyxis", "apptainer")  # pyxis: srun --container-image
    # "/from:/to"; the run folder, the data and the weights' file are mounted by themselves
    mounts: list[str] = field(default_factory=list)
    python: str = "python"  # inside the image


@dataclass
class SlurmConfig:
    """Options of sbatch by its own words; None leaves a value to the partition. They have no effect
    on a machine without SLURM."""

    partition: str | None = written_as(NAMES, "gpu")
    account: str | None = written_as(NAMES, "vision")
    qos: str | None = written_as(NAMES, "normal")
    # minutes; written as minutes or in SLURM's forms (4:00:00, 1-12); None: the partition's own
    time: int | None = time_limit()
    cpus_per_gpu: int | None = within(None, 1)  # cores a rank; None: the partition's own
    mem_gb: int | None = within(None, 1)  # GiB a node; None: the partition's own
    constraint: str | None = written_as(r"[\w.,+@:/=&|*()\[\]-]+", "a100|h100")
    exclude: str | None = written_as(HOSTS, "node[3,7-9]")
    nodelist: str | None = written_as(HOSTS, "node[1-2]")
    reservation: str | None = written_as(NAMES, "course")
    # any other option of sbatch, by its long name: {comment: try 3, nice: 100, exclusive: true}
    options: dict[str, Any] = field(default_factory=dict)
    dependency: str | None = written_as(r"[\w:,?+]+", "afterok:1234")
    mail_user: str | None = written_as(r"[\w.+@-]+", "me@example.org")
    mail_type: str | None = written_as(r"[A-Z0-9_,]+", "END,FAIL")
    parallel: int | None = within(None, 1)  # runs of a sweep at a time; None: as SLURM has room
    setup: list[str] = field(default_factory=list)  # shell lines before the job: module load cuda
    env: dict[str, str] = field(default_factory=dict)  # environment variables of the job
    container: ContainerConfig = field(default_factory=ContainerConfig)
    # seconds before the time limit at which the run saves its state and stops
    signal_s: int = within(120, 10)
    # further starts after a preemption, a time limit or a lost node
    max_requeues: int = within(100, 0)
    retries: int = within(0, 0)  # further starts after an error in code


@dataclass
class RunConfig:
    """One run, whole. `runs/<name>/config.yaml` holds it resolved."""

    name: str | None = None  # of the run folder; None: <data>-<model>-<date>-<time>
    runs_dir: str = "runs"
    seed: int = within(0, 0)
    epochs: int = within(10, 1)
    nodes: int = within(1, 1)  # machines
    # devices a node (CPU processes where there is no GPU); None: all, or 1
    gpus: int | None = within(None, 1)
    # the user's own, which _target_ may name
    trusted_packages: list[str] = field(default_factory=list)
    # batches of each loop an epoch, for a quick try; None: all
    limit_batches: int | None = within(None, 1)
    debug: bool = (
        False  # data in the calling thread, anomaly detection: breakpoints stop everywhere
    )
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    strategy: StrategyConfig = field(default_factory=StrategyConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    early_stopping: EarlyStoppingConfig = field(default_factory=EarlyStoppingConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    slurm: SlurmConfig = field(default_factory=SlurmConfig)
