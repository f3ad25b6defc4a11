"""Every setting that a message tells a person to give is one that helps: it is typed as it is
printed, by a shell's rules, and the fault is gone."""

import copy
import re
import shlex
from pathlib import Path

import pytest
from PIL import Image

from clf.config import RunConfig, compose
from clf.config.device_rules import gpu_fault
from clf.config.files import ConfigFiles
from clf.config.given import Setting
from clf.config.overrides import sweep
from clf.plan import examine
from slurm.partitions import Partition
from slurm.preflight import partition_faults

CPU = "strategy.accelerator=cpu"
MISTAKES = [
    # spelling, types and limits
    "epochs=ten",
    "epochs=0",
    "epochs=",
    "model.optimizer=",
    "model.weights=",
    "model=",
    "debug=perhaps",
    "data.micro_batch_size=many",
    "slurm.time=soon",
    "slurm.account=a;b",
    "slurm.nodelist=node(1)",
    "slurm.dependency=after=1",
    "slurm.constraint=a;b",
    "tracking.tags=a,b",
    "tracking.tags=[a b]",
    "slurm.env={A: x y}",
    "'tracking.tags=\"[a, b c]\"'",
    "slurm.setup='module load cuda'",
    "slurm.setup='source ~/x.sh, export A=1'",
    "model.class_weights=1",
    "seed=1,2",
    "'seed=range(0,3)'",
    "nodes=1,2",
    "model=resnet18,resnet50",
    "model.optimizer=adamw,sgd",
    "+epochs=3",
    "convnext_tiny",
    "epochs",
    "data.batchsize=16",
    "model=resnet19",
    "model.optimizer=sgdd",
    "data.interpolation=bicubik",
    "data.augment.crop_scale=0.5",
    "slurm.env=A",
    "model=timm/resnet18.a1_in1k",
    "model=resnet34d",
    "checkpoint.monitor=val/acc",
    "checkpoint.monitor=val/f1",
    "checkpoint.monitor=val_raw/acc_top1 ema.decay=0.99",
    "checkpoint.monitor=val_raw/acc_top1",
    "checkpoint.mode=min",
    "data.augment.crop_scale='[1.0,0.5]'",
    "data.augment.crop_ratio='[0,1]'",
    "data.augment.jpeg_quality='[70]'",
    # values that do not go together
    "model.num_classes=43",
    "model.top_k=11",
    "model.class_weights='[1,2]'",
    "model.class_weights='[0,0,0,0,0,0,0,0,0,0]'",
    "model.class_weights='[1,1,1,1,1,1,1,1,1,1]' data.class_weights=inverse_frequency",
    "data.eval_resize=8",
    "data.eval_size=300 data.eval_resize=299",
    "data.start_size=256 data.image_size=224 data.eval_resize=null",
    "data.batch_size=64 gpus=3",
    "data.batch_size=64 data.micro_batch_size=48",
    "data.batch_size=40 data.micro_batch_size=5 mix.mixup=0.2",
    "data.batch_size=63 gpus=3 mix.cutmix=1",
    "data.repeats=3 data.batch_size=64 gpus=2",
    f"data.micro_batch_size=auto {CPU}",
    "model.loss=binary_cross_entropy mix.mixup=1 model.bce_threshold=1",
    "ema.decay=1",
    "strategy=single gpus=2",
    "strategy=single strategy.sync_batchnorm=true",
    f"strategy.precision=16-mixed {CPU}",
    f"strategy.sync_batchnorm=true {CPU}",
    "strategy.offload_optimizer=true",
    "strategy.offload_parameters=true strategy=deepspeed_zero2",
    f"strategy.offload_optimizer=true strategy=deepspeed_zero1 {CPU}",
    "strategy.compile=true strategy.gradient_checkpointing=true",
    "strategy.compile=true strategy=deepspeed_zero3",
    "strategy.find_unused_parameters=true strategy=deepspeed_zero3",
    "model.optimizer=muon strategy=deepspeed_zero1",
    "model.optimizer=sgd model.nesterov=true model.momentum=0",
    "model.optimizer=lamb model.weight_decay=0",
    "model.optimizer=lamb model.freeze_epochs=2",
    "model.schedule=step",
    "model.schedule=step model.step_epochs='[30]' model.step_every=2",
    "model.schedule=step model.step_epochs='[5,3]'",
    "model.schedule=step model.step_epochs='[1,5]'",
    "model.mean='[128,128,128]'",
    "model.std='[0,0,0]'",
    "model=resnet18 model.weights=IMAGENET1K_V9",
    "model=vit_b_16 data.image_size=100 data.eval_resize=null",
    "model=vit_b_16 data.start_size=128 data.image_size=224 data.eval_resize=null",
    "model=inception_v3 data.image_size=32 data.eval_resize=null",
    "model=efficientnet_b0 model.network_arguments='{dropout: 0.3}'",
    "model.pretrained=true model.small_images=true",
    # jobs
    "slurm.mail_user=me@example.org",
    "slurm.mail_type=END",
    "slurm.options='{t: 1}'",
    "slurm.options='{q: 1}'",
    "slurm.options='{no-requeue: true}'",
    "slurm.options='{gres: gpu:2}' gpus=4",
    "data=imagefolder data.root={images} data.batch_size=2 data.stage_dir=/scratch",
    "slurm.container.mounts='[x]'",
    # notes
    "model.optimizer=sgd",
    "model.optimizer=lars",
]
CUE = r"(?:set|write|give|such as|,? or|did you mean|by|write one,|of them:)"
WORD = r"'[\w.]+=[^']*'|[\w.]+=(?:\[[^\]]*\]|\{[^}]*\}|(?:[^\s,;:)?]|[,:](?=\S))+)"
VALUE = r"null|true|false|auto|\d[\d.]*(?:e-\d+)?|\[[\d.,]+\]"
# What stands for something of the user's own, which no test can type.
PLACEHOLDER = re.compile(r"=(VALUE|FOLDER|TEXT|/path/to/\S*)$|^key=value$")
FORM = "not a setting; write key=value, such as "  # whose examples are no remedy of that word


def said(words: list[str]) -> tuple[list[str], list[str]]:
    """The faults and the notes of a command on a machine without SLURM."""

    def fill(cfg: RunConfig) -> None:
        cfg.gpus = cfg.gpus or 1

    examined = examine(words, fill=fill)
    return examined.faults, examined.notes


def remedies(message: str) -> list[str]:
    """The settings that a message tells to give, each as it is printed."""
    given, _, rest = message.partition(": ")
    key, _, value = given.lstrip("+").partition("=")
    found = []
    for one in re.finditer(rf"{CUE} ((?:{WORD})(?: (?:{WORD}))*)(?:,? or ({VALUE})\b)?", rest):
        found.append(one[1])
        if one[2]:  # data.batch_size=63 or 66
            found.append(f"{shlex.split(one[1])[0].partition('=')[0]}={one[2]}")
    plain = re.sub(rf"(?:{WORD})(?:,? or (?:{VALUE})\b)?", "", rest)
    for one in re.finditer(rf"\b(?:set|or|such as|about) ({VALUE})(?![\w=])", plain):
        found.append(f"{key}={one[1].rstrip('.')}")
    if guess := re.search(r"did you mean ([^\s=?]+)\?", plain):
        is_key = "no such key" in message
        found.append(f"{guess[1]}={value}" if is_key else f"{key}={guess[1]}")
    return [one for one in dict.fromkeys(found) if not PLACEHOLDER.search(one)]


def instead(words: list[str], message: str, remedy: str) -> list[str]:
    """The command with a remedy in the place of what it replaces."""
    typed = shlex.split(remedy)
    replaced = {word.partition("=")[0] for word in typed}
    if f"{remedy} instead" in message:
        replaced.add(message.partition("=")[0])
    name = re.compile(r"(slurm\.options|model\.\w+)\..*")
    replaced |= {found[1] for key in replaced if (found := name.fullmatch(key))}
    if "cut at its spaces" in message or "no such key" in message:
        return typed
    keys = {word: word.partition("=")[0].lstrip("+") for word in words if "=" in word}
    return [*(word for word, key in keys.items() if key not in replaced), *typed]


@pytest.fixture(autouse=True)
def _compose_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The files are the same for all commands of this module, and reading them takes longest."""
    monkeypatch.setattr(compose, "_compose", composed_once)


KNOWN: dict[tuple[str, ...], tuple[list[Setting], list[str]]] = {}
_compose = compose._compose


def composed_once(
    choices: dict[str, str], config_name: str, files: ConfigFiles
) -> tuple[list[Setting], list[str]]:
    key = (config_name, *(f"{group}={option}" for group, option in sorted(choices.items())))
    if key not in KNOWN:
        KNOWN[key] = _compose(choices, config_name, files)
    settings, faults = KNOWN[key]
    return copy.deepcopy(settings), list(faults)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("images")
    for split in ("train", "val"):
        for name in ("cat", "dog"):
            (root / split / name).mkdir(parents=True)
            for index in range(3):
                Image.new("RGB", (8, 8), (index, 9, 9)).save(root / split / name / f"{index}.png")
    return root


@pytest.mark.parametrize("mistake", MISTAKES)
def test_every_remedy_that_a_message_prints_helps_as_it_is_printed(
    mistake: str, images: Path
) -> None:
    words = shlex.split(mistake.replace("{images}", str(images)))
    faults, notes = said(words)
    assert faults or notes
    for message in [*faults, *notes]:
        if FORM in message:
            for example in message.partition(FORM)[2].split(" or "):
                assert said([example])[0] == []
            continue
        if chosen := re.search(r"by --model (\S+)$", message):
            assert said([f"model={chosen[1]}"])[0] == []
        if swept := re.search(r"--sweep ('.*'|\S+)$", message):
            assert sweep(shlex.split(swept[1]))[1] == []
        for remedy in remedies(message):
            left, left_notes = said(instead(words, message, remedy))
            told = f"{message}\n  {remedy}\n  {left} {left_notes}"
            assert message not in [*left, *left_notes], told
            assert set(left) <= set(faults), told


@pytest.mark.parametrize(
    "words",
    [
        "slurm.partition=gp",
        "slurm.time=120",
        "nodes=9",
        "slurm.mem_gb=900",
        "slurm.cpus_per_gpu=9 gpus=1",
        f"gpus=9 data.batch_size=72 {CPU}",
        "slurm.partition=cpu",
        "gpus=4",
    ],
)
def test_what_a_partition_cannot_give_is_told_with_what_it_can(words: str) -> None:
    known = {
        "gpu": Partition("gpu", "UP", 60, 4, 2, 8, 64000),
        "": Partition("gpu", "UP", 60, 4, 2, 8, 64000),
        "cpu": Partition("cpu", "UP", 60, 4, 0, 8, 64000),
    }

    def faults(words: list[str]) -> list[str]:
        cfg = examine(words).cfg
        assert cfg is not None
        cfg.gpus = cfg.gpus or 1
        return list(partition_faults(cfg, known))

    (message,) = faults(words.split())
    tried = remedies(message)
    assert tried
    for remedy in tried:
        assert faults(instead(words.split(), message, remedy)) == []


def test_what_this_machine_cannot_give_is_told_with_what_it_can() -> None:
    for asked, gpus, available in (("auto", 4, 2), ("gpu", 1, 0)):
        message = gpu_fault(asked, gpus, available)
        assert message is not None
        for remedy in remedies(message):
            key, _, value = remedy.partition("=")
            number = int(value) if key == "gpus" else gpus
            assert gpu_fault(asked if key == "gpus" else value, number, available) is None
