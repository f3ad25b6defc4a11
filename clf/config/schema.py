"""Every setting of a run: its name, type, default, limits and meaning, stated once.

`python launch/submit.py --settings` and docs/settings.md print them from here; files in configs/
change a few of them. A class or function that a setting chooses (a network, an optimizer, a reader
of data) adds settings of its own, which its signature states: see `clf.config.registry`.

Plain dataclasses, so that `cfg.data.batch_size` completes in an editor.
"""

from dataclasses import dataclass, field
from typing import Any

from clf.config.about import ABOVE_0, setting
from clf.config.slurm_words import TIME_FORMS, minutes

NAMES = r"[\w.,+@:/=-]+"  # SLURM's names, separated by commas: nothing that a shell would read
HOSTS = r"[\w.,\[\]-]+"


@dataclass
class ModelConfig:
    """The network, its loss, optimizer and learning rate: the arguments of a model class."""

    _target_: str = setting(
        "clf.models.resnet.ResNet18Model", "class to build, of a trusted package"
    )
    num_classes: int | None = setting(None, "null: as many as the data has", 2)
    pretrained: bool = setting(False, "start from the network's default ImageNet weights")
    weights: str | None = setting(
        None,
        "a weights name (IMAGENET1K_V2, or a tag of timm), or a file: .pth, .pt, .ckpt, .pth.tar, "
        ".bin or .safetensors",
    )
    weights_entry: str | None = setting(
        None,
        "where the file has the network's tensors, such as model_ema; dots between keys; null: "
        "as state_dict, model or another usual name",
    )
    weights_head: bool = setting(
        False, "take the file's head too, its classes by their names; else it is new"
    )
    strict_weights: bool = setting(
        True, "refuse a file of which less than three quarters fit, or that fills less"
    )
    mean: list[float] | None = setting(
        None,
        "of red, green and blue in 0..1, subtracted; null: the named weights' own, else ImageNet's",
    )
    std: list[float] | None = setting(None, "what the difference is divided by; null: the same")
    optimizer: str = setting("adamw", "turns gradients into steps", group="optimizer")
    learning_rate: float = setting(5e-4, "peak, reached after the warm-up", 0.0)
    head_lr_factor: float = setting(1.0, "learning rate of the head / of the rest", 0.0)
    layer_decay: float | None = setting(
        None,
        "learning rate of each layer / of the next one, down from the head, such as 0.75; null: "
        "the same for all",
        ABOVE_0,
        high=1.0,
    )
    freeze_epochs: int = setting(
        0, "epochs that train the head alone; epochs or more: the whole run does", 0
    )
    weight_decay: float = setting(
        0.05, "not applied to biases, normalisation layers and embeddings", 0.0
    )
    loss: str = setting("cross_entropy", "what is minimised", group="loss")
    class_weights: list[float] | None = setting(
        None, "a weight a class in the loss, in label order"
    )
    schedule: str = setting("cosine", "the learning rate after the warm-up", group="schedule")
    warmup_epochs: int | None = setting(
        None, "epochs of linear warm-up; null: 1, or 0 where the run has one epoch", 0
    )
    warmup_start_factor: float = setting(0.1, "first learning rate / peak", ABOVE_0, high=1.0)
    interval: str = setting("step", "how often the learning rate moves", choices=("step", "epoch"))
    top_k: int | None = setting(
        None,
        "k of the second accuracy, reported where it is below the number of classes; null: 5",
        1,
    )


@dataclass
class AugmentConfig:
    """Training-time augmentation, drawn from each sample's own generator; probability 0: off."""

    crop_scale: list[float] = setting([0.35, 1.0], "share of the image's area that a crop has")
    crop_ratio: list[float] = setting([0.75, 1.3333], "width / height of a crop")
    horizontal_flip: float = setting(0.5, "probability; 0 for digits and text", 0.0, high=1.0)
    brightness: float = setting(0.0, "colour jitter: factor drawn from 1 -+ this", 0.0)
    contrast: float = setting(0.0, "the same for contrast", 0.0)
    saturation: float = setting(0.0, "the same for saturation", 0.0)
    hue: float = setting(0.0, "turn of the colour circle, drawn from -+ this", 0.0, high=0.5)
    policy: str = setting(
        "none",
        "a published policy of augmentations",
        choices=("none", "rand_augment", "trivial_augment"),
    )
    rand_augment_ops: int = setting(2, "operations an image", 1)
    rand_augment_magnitude: int = setting(9, "strength of each operation, of 30", 0, high=30)
    jpeg: float = setting(0.0, "probability of JPEG compression", 0.0, high=1.0)
    jpeg_quality: list[int] = setting(
        [15, 70], "range that the compression's quality is drawn from"
    )
    noise: float = setting(0.0, "probability of Gaussian noise", 0.0, high=1.0)
    noise_std: float = setting(10.0, "standard deviation of the noise, in grey levels of 255", 0.0)
    transforms: list[dict[str, Any]] = setting(
        [],
        "transforms of your own, before erasing: [{_target_: mypkg.Blur, p: 0.5}]; called as "
        "transform(image_CHW, rng), uint8 in and out",
    )
    erasing: float = setting(0.0, "probability of random erasing", 0.0, high=1.0)


@dataclass
class DataConfig:
    """Where images come from and how they become batches."""

    name: str = setting("digits", "what reads the images", group="data")
    root: str | None = setting(
        None, "folder of images; digits and jersey are written there, null: data/<name>-<hash>"
    )
    batch_size: int = setting(64, "images of an optimizer step, over all ranks", 1)
    micro_batch_size: Any = setting(
        None,
        "images of a rank's forward pass; null: batch_size / ranks; auto: as many as memory holds. "
        "The rest of a step is accumulated",
        takes="a whole number of at least 1, auto, or null",
    )
    eval_batch_size: int | None = setting(
        None, "images of a rank's forward pass in evaluation; null: the micro-batch", 1
    )
    image_size: int | None = setting(
        None,
        "pixels a side, as the model sees it; null: the named weights' own, else 224",
        8,
        high=4096,
    )
    eval_size: int | None = setting(
        None,
        "pixels a side in evaluation, larger than image_size where that helps (Touvron et al. "
        "2019, arXiv 1906.06423); null: image_size",
        8,
        high=4096,
    )
    eval_resize: int | None = setting(
        None,
        "pixels of the short side before the centre crop; null: in the proportion of the named "
        "weights, else eval_size / 0.875",
        8,
    )
    interpolation: str | None = setting(
        None,
        "how images are resized; null: the named weights' own, else bilinear",
        choices=("bilinear", "bicubic"),
    )
    background: str = setting(
        "white",
        "colour under transparent pixels",
        takes="a colour: a name of CSS, or #rrggbb",
    )
    white_level: float | None = setting(
        None,
        "the value that is white in images of more than 8 bits, such as 4095 of a 12-bit camera; "
        "null: by each image, the largest value that its number of bits allows",
        ABOVE_0,
    )
    on_bad_image: str = setting(
        "error",
        "where one cannot be read: stop, or leave it out of the loss and of every metric",
        choices=("error", "skip"),
    )
    max_bad_fraction: float = setting(
        0.01,
        "of on_bad_image=skip: more of an epoch's images than this stop the run",
        0.0,
        high=1.0,
    )
    start_size: int | None = setting(
        None,
        "pixels a side in the first epoch, from which they grow to image_size, epoch by epoch, in "
        "multiples of 32 (of 4 at 32 pixels); an evaluation keeps its size; null: no growth",
        8,
        high=4096,
    )
    grow_until: float = setting(
        0.8, "share of the epochs after which image_size is reached", 0.0, high=1.0
    )
    threads: int | None = setting(
        None, "decoding threads a rank; null: its share of the cores; 0: the calling thread", 0
    )
    prefetch: int = setting(4, "batches read ahead", 1)
    val_fraction: float = setting(
        0.1, "share that validates, where the data has no split for it", 0.0, high=0.9
    )
    test_fraction: float = setting(
        0.1, "share that tests, where the data is not split at all", 0.0, high=0.9
    )
    split_seed: int = setting(0, "of the splits that are drawn", 0)
    group_by: str | None = setting(
        None,
        "images of a group stay in one of the splits that are drawn: those in a folder below that "
        "of their class; those in whose paths from root a pattern finds the same, such as "
        "regex:match\\d+; or those whose lines of a list say the same under a key, such as "
        "column:player",
        takes="folder, regex:PATTERN or column:KEY",
    )
    exclude: str | None = setting(
        None,
        "file with the path of an image to leave out, from root on, on each line; launch/"
        "check_data.py --fix-list writes one",
    )
    stage: str = setting(
        "none",
        "node: copy root, a folder or a tar file, to each node's own disk before training",
        choices=("none", "node"),
    )
    stage_dir: str | None = setting(
        None, "folder on the node; null: $SLURM_TMPDIR, else $TMPDIR or /tmp"
    )
    cache: str = setting(
        "none",
        "decode each image of training and validation once, for all ranks of a node: ram keeps the "
        "pixels in memory while a run uses them, disk on the node's own disk, for later runs too; "
        "device: as ram, and each GPU has those of training in its own memory and crops them there",
        choices=("none", "ram", "disk", "device"),
    )
    cache_gb: float | None = setting(
        None,
        "GB at most of a node; null: half of the memory, or nine tenths of the disk, that is free",
        ABOVE_0,
    )
    cache_dir: str | None = setting(
        None,
        "folder on the node; null: /dev/shm for ram; for disk $SLURM_TMPDIR, else $TMPDIR or /tmp",
    )
    origin: str | None = setting(
        None, "root before a job replaced it by the node's copy; set by the job alone"
    )
    sampler: str = setting(
        "shuffle",
        "class_balanced: every class equally often",
        choices=("shuffle", "class_balanced"),
    )
    repeats: int = setting(
        1,
        "times that an image stands in a step, each time augmented anew; an epoch keeps its "
        "steps and shows 1 / repeats of the images",
        1,
    )
    class_weights: str = setting(
        "none",
        "rare classes weigh more in the loss: by 1 / images of the class, or by 1 / effective "
        "number of images, which grows more slowly",
        choices=("none", "inverse_frequency", "effective_number"),
    )
    effective_number_beta: float = setting(
        0.999, "of effective_number: near 1 as 1 / images, 0 all alike", 0.0, high=0.9999999
    )
    augment: AugmentConfig = field(default_factory=AugmentConfig)

    @property
    def size(self) -> int:
        """`image_size` as a number, also in a configuration that was not composed."""
        return self.image_size or 224

    @property
    def size_in_evaluation(self) -> int:
        """Pixels a side of the images of a validation or a test."""
        return self.eval_size or self.size


@dataclass
class MixConfig:
    """Training images mixed in pairs, on the device; the loss has its share of both labels."""

    mixup: float = setting(0.0, "alpha of the shares' Beta(alpha, alpha); 0: no mixup", 0.0)
    cutmix: float = setting(0.0, "the same for a box of the other image; 0: no cutmix", 0.0)
    probability: float = setting(1.0, "that a pair is mixed", 0.0, high=1.0)
    switch_probability: float = setting(0.5, "of cutmix, where both are on", 0.0, high=1.0)
    off_epochs: int = setting(0, "last epochs, which train without", 0)


@dataclass
class StrategyConfig:
    """How the work is spread over devices, and in which precision."""

    name: str = setting(
        "auto",
        "auto: single on one device, ddp on several; deepspeed_zero1 shards the optimizer's state "
        "over devices, zero2 the gradients too, zero3 the weights too",
        choices=("auto", "single", "ddp", "deepspeed_zero1", "deepspeed_zero2", "deepspeed_zero3"),
    )
    accelerator: str = setting(
        "auto", "auto: GPUs where there are any", choices=("auto", "cpu", "gpu")
    )
    precision: str = setting(
        "auto",
        "auto: bf16-mixed on a GPU that has it, else 32-true",
        choices=("auto", "32-true", "bf16-mixed", "16-mixed"),
    )
    offload_optimizer: bool = setting(
        False, "the optimizer's state and step on the CPU (deepspeed_*)"
    )
    offload_parameters: bool = setting(
        False, "weights in the CPU's memory until they are used (deepspeed_zero3)"
    )
    channels_last: bool = setting(True, "memory format of images and convolutions")
    gradient_clip: float | None = setting(None, "largest norm of the whole gradient", 0.0)
    gradient_checkpointing: bool = setting(
        False, "less memory, a third more time, the same numbers"
    )
    find_unused_parameters: bool = setting(
        False,
        "for a network of which steps leave out parameters, under ddp and deepspeed_zero1 and 2",
    )
    sync_batchnorm: bool = setting(False, "normalise by the statistics of all ranks' images")
    deterministic: bool = setting(False, "only algorithms that give the same bits on a GPU; slower")
    compile: bool = setting(False, "torch.compile the network, once for each size of its images")
    compile_mode: str = setting(
        "default",
        "of torch.compile; reduce-overhead: CUDA graphs, for small networks and micro-batches, "
        "whose kernels are over before the next is started; max-autotune: the fastest "
        "kernels too, after minutes of trying",
        choices=("default", "reduce-overhead", "max-autotune"),
    )


@dataclass
class CheckpointConfig:
    """Which checkpoint is the best, and which stay beside it and the last one."""

    monitor: str = setting(
        "val/acc_top1", "the number that judges; also one that the model declares in its `logs`"
    )
    mode: str | None = setting(
        None,
        "whether more or less of it is better; null: as is right for the metric",
        choices=("max", "min"),
    )
    keep_top: int = setting(
        1,
        "the best so many stay: above 1, each as top-epoch<NNN>.ckpt, and best.ckpt is the first",
        1,
    )
    keep_last: int = setting(
        2,
        "last.ckpt, and so many less one of those that it replaced, as last-1.ckpt, ...: the run "
        "goes on from one of them if last.ckpt is damaged",
        1,
    )
    every_epochs: int | None = setting(
        None, "keep epoch<NNN>.ckpt of each so many epochs; null: none", 1
    )
    every_steps: int | None = setting(
        None, "last.ckpt also after each so many optimizer steps; null: not by steps", 1
    )
    every_minutes: float | None = setting(
        10.0, "last.ckpt also when the one before is so old; null: not by time", 0.01
    )


@dataclass
class EarlyStoppingConfig:
    """When a run ends before its last epoch."""

    patience: int | None = setting(
        None, "epochs without a better checkpoint.monitor; null: never", 1
    )
    min_delta: float = setting(0.0, "least change that counts as better", 0.0)


@dataclass
class EmaConfig:
    """An exponential moving average of the weights. With it, the average is what a run evaluates
    as `val` and `test` and keeps in its checkpoints; `val_raw` is of the weights as trained."""

    decay: float | None = setting(
        None,
        "share of the average that an optimizer step keeps, such as 0.999; null: no average",
        0.5,
        high=1.0,
    )
    warmup: bool = setting(
        True,
        "after t steps keep (1 + t) / (10 + t) at most: the average spans the last tenth of the "
        "steps until decay is reached, so a short run forgets its first weights",
    )


@dataclass
class TrackingConfig:
    """What goes to Weights & Biases, and how often."""

    mode: str = setting(
        "auto",
        "auto: online with a key, else offline; shared: online, with system metrics of each node",
        choices=("auto", "online", "offline", "shared", "disabled"),
    )
    project: str = setting("clf", "W&B's project")
    entity: str | None = setting(None, "W&B's user or team; null: the key's own")
    group: str | None = setting(None, "runs that belong together; a sweep sets it")
    tags: list[str] = setting([], "to find the run by")
    class_scalars: bool = setting(False, "log val/acc_class/<name> as scalars too")
    checkpoints: str = setting(
        "none",
        "files that the run's end uploads as an artifact; all: best, last and kept ones",
        choices=("none", "best", "all"),
    )
    log_every: int = setting(10, "optimizer steps between logged scalars", 1)


@dataclass
class ContainerConfig:
    """The container that a job's Python runs in."""

    image: str | None = setting(None, "file or registry name; null: no container")
    runtime: str = setting("pyxis", "pyxis: srun --container-image", choices=("pyxis", "apptainer"))
    mounts: list[str] = setting(
        [], '"/from:/to"; the run folder, the data and the weights\' file are mounted by themselves'
    )
    python: str = setting("python", "the Python inside the image")


@dataclass
class SlurmConfig:
    """Options of sbatch, in its own words. They have no effect on a machine without SLURM."""

    partition: str | None = setting(None, "null: the default one", pattern=NAMES, example="gpu")
    account: str | None = setting(None, "who pays", pattern=NAMES, example="vision")
    qos: str | None = setting(None, "quality of service", pattern=NAMES, example="normal")
    time: int | None = setting(
        None,
        "time limit; null: the partition's own",
        1,
        takes=TIME_FORMS,
        read=minutes,
        example="12:00:00",
    )
    cpus_per_gpu: int | None = setting(None, "cores a rank; null: the partition's own", 1)
    mem_gb: int | None = setting(None, "GiB a node; null: the partition's own", 1)
    constraint: str | None = setting(
        None,
        "features that the nodes have",
        pattern=r"[\w.,+@:/=&|*()\[\]-]+",
        example="a100|h100",
    )
    exclude: str | None = setting(None, "nodes to leave out", pattern=HOSTS, example="node[3,7-9]")
    nodelist: str | None = setting(None, "nodes to take", pattern=HOSTS, example="node[1-2]")
    reservation: str | None = setting(
        None, "a reservation to run in", pattern=NAMES, example="course"
    )
    options: dict[str, Any] = setting(
        {},
        "any other option of sbatch by its long name: {comment: try 3, nice: 100}",
        as_written=True,
    )
    dependency: str | None = setting(
        None, "what must come before", pattern=r"[\w:,?+]+", example="afterok:1234"
    )
    mail_user: str | None = setting(
        None, "who gets mail", pattern=r"[\w.+@-]+", example="me@example.org"
    )
    mail_type: str | None = setting(None, "about what", pattern=r"[A-Z0-9_,]+", example="END,FAIL")
    parallel: int | None = setting(None, "runs of a sweep at a time; null: as SLURM has room", 1)
    setup: list[str] = setting([], "shell lines before the job, such as module load cuda")
    env: dict[str, str] = setting({}, "environment variables of the job")
    container: ContainerConfig = field(default_factory=ContainerConfig)
    signal_s: int = setting(
        120, "seconds before the time limit at which the run saves its state and stops", 10
    )
    max_requeues: int = setting(
        100, "further starts after a preemption, a time limit or a lost node", 0
    )
    retries: int = setting(0, "further starts after an error in code", 0)
    max_excluded: int = setting(
        2,
        "nodes that the run adds to exclude by itself: those on which it has failed twice by the "
        "hardware's doing",
        0,
    )


@dataclass
class RunConfig:
    """All settings of a run. `runs/<name>/config.yaml` holds the resolved ones."""

    name: str | None = setting(None, "of the run folder; null: <data>-<model>-<date>-<time>")
    runs_dir: str = setting("runs", "folder of all runs")
    seed: int = setting(0, "of the weights, the order of the images and the augmentation", 0)
    epochs: int = setting(10, "passes over the training images", 1)
    nodes: Any = setting(
        1,
        "machines; a range such as 1-4: at each start as many of these as SLURM has then",
        takes="a whole number of at least 1, or a range such as 1-4",
    )
    gpus: int | None = setting(
        None, "devices a node (CPU processes where there is no GPU); null: all, or 1", 1
    )
    trusted_packages: list[str] = setting([], "your own packages, which _target_ may name")
    callbacks: list[dict[str, Any]] = setting(
        [], "Lightning callbacks of your own: [{_target_: mypkg.MyCallback, argument: 1}]"
    )
    limit_batches: int | None = setting(
        None, "batches of each loop an epoch, for a quick try; null: all", 1
    )
    on_bad_loss: str = setting(
        "stop",
        "where a step's loss or gradient is not finite: stop; skip its update; or rollback to the "
        "last checkpoint, and leave the step out",
        choices=("stop", "skip", "rollback"),
    )
    hang_timeout_s: float | None = setting(
        600,
        "seconds without progress in training after which a run hangs: it writes every rank's "
        "stack and ends, and on SLURM starts again; null: never",
        1,
    )
    report: bool = setting(True, "write report.html, with curves and pictures, when the run ends")
    debug: bool = setting(
        False, "data in the calling thread, anomaly detection: breakpoints stop everywhere"
    )
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    mix: MixConfig = field(default_factory=MixConfig)
    strategy: StrategyConfig = field(default_factory=StrategyConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    early_stopping: EarlyStoppingConfig = field(default_factory=EarlyStoppingConfig)
    ema: EmaConfig = field(default_factory=EmaConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    slurm: SlurmConfig = field(default_factory=SlurmConfig)
