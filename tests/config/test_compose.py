"""YAML and `key=value` -> RunConfig: valid settings get their types, and all invalid ones are
reported at once, each with its remedy."""

from datetime import datetime
from pathlib import Path

import pytest
from PIL import Image

from clf.config import ConfigError, RunConfig
from clf.config.compose import CONFIG_DIR
from clf.config.rules import check
from clf.config.saved import from_dict, load, save
from clf.plan import compose, examine, resolve

ON_CPU = "strategy.accelerator=cpu"


def faults_of(*overrides: str, **where: Path) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        compose(overrides, **where)
    return caught.value.faults


def make_images(root: Path, *folders: str) -> None:
    for folder in folders:
        (root / folder).mkdir(parents=True)
        for index in range(3):
            Image.new("RGB", (8, 8), (index * 80, 10, 10)).save(root / folder / f"{index}.png")


def test_a_run_with_nothing_said_is_resnet18_on_digits() -> None:
    cfg = compose()
    assert isinstance(cfg, RunConfig)
    assert cfg.model._target_ == "clf.models.resnet.ResNet18Model"
    assert (cfg.data.name, cfg.strategy.name, cfg.nodes, cfg.gpus) == ("digits", "auto", 1, None)


def test_overrides_reach_every_group_with_their_types() -> None:
    cfg = compose(
        ["model=resnet50", "data.batch_size=128", "model.learning_rate=1e-3", "tracking.tags=[a,b]"]
        + ["data.augment={jpeg: 0.5, noise: 0.25}", "model.class_weights=null", "debug=true"]
    )
    assert cfg.model._target_ == "clf.models.resnet.ResNet50Model"
    assert (cfg.data.batch_size, cfg.model.learning_rate, cfg.tracking.tags) == (
        128,
        1e-3,
        ["a", "b"],
    )
    assert (cfg.data.augment.jpeg, cfg.data.augment.noise, cfg.debug) == (0.5, 0.25, True)


def test_a_name_of_digits_and_a_path_with_tilde_or_comma_stay_as_typed() -> None:
    cfg = compose(["name=007", "runs_dir=~/runs,old", "tracking.project='two words'"])
    assert (cfg.name, cfg.runs_dir, cfg.tracking.project) == ("007", "~/runs,old", "two words")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.batchsize=16", "data.batchsize=16: no such key; did you mean data.batch_size?"),
        ("batch_size=16", "batch_size=16: no such key; did you mean data.batch_size?"),
        ("lr=0.1", "lr=0.1: no such key; did you mean model.learning_rate?"),
        ("epochs=ten", "epochs=ten: expected a whole number of at least 1"),
        ("epochs=2.5", "got the number 2.5"),
        ("data.batch_size=null", "got null"),
        ("debug=perhaps", "debug=perhaps: expected true or false"),
        ("data.augment.crop_scale=0.5", "expected a list of numbers"),
        ("data.augment=5", "data.augment is a group of keys"),
        ("data.augment={jpgs: 1}", "data.augment.jpgs=1: no such key; did you mean"),
        ("model=resnet19", "model=resnet19: no such model; expected one of"),
        ("strategy=dpp", "did you mean strategy=ddp?"),
        ("nodes=-1", "nodes=-1: expected a number of at least 1"),
        ("data.augment.erasing=1.5", "expected a number from 0 to 1"),
        ("model.learning_rate=nan", "model.learning_rate=nan: expected a finite number"),
        ("model.interval=batch", "model.interval=batch: expected one of step, epoch"),
        ("model.num_classes=43", "model.num_classes=43: the data has 10 classes"),
        ("model.top_k=11", "model.top_k=11: there are only 10 classes"),
        ("model.class_weights=[1,2]", "has 2 numbers for 10 classes"),
        ("data.augment.crop_scale=[1.0,0.5]", "such as data.augment.crop_scale=[0.5,1.0]"),
        ("data.augment.crop_scale=[0,1]", "such as data.augment.crop_scale=[0.35,1.0]"),
        ("data.eval_resize=8", "data.eval_resize=8: smaller than the centre crop"),
        ("model.weights=/no/such/file.pth", "model.weights=/no/such/file.pth: no such file"),
        ("name=../../etc", "name=../../etc: cannot be the name of a run folder"),
        ("name='two words'", "name=two words: cannot be the name"),
        ("checkpoint.monitor=val/acc", "did you mean val/acc_top1?"),
        ("checkpoint.monitor=val/f1", "did you mean val/f1_macro?"),
        ("checkpoint.monitor=f1_macro", "did you mean val/f1_macro?"),
        (
            "checkpoint.mode=min",
            "checkpoint.mode=min: val/acc_top1 is best at its maximum",
        ),
        ("seed=1,2", "seed=1,2: several values where a run takes one"),
        ("seed=3,4", "submit a run for each: launch/submit.py --sweep seed=3,4"),
        ("epochs", "epochs: not a setting; write key=value"),
        ("convnext_tiny", "convnext_tiny: not a setting; a model is chosen by --model convnext_t"),
        ("model=", "model=: there is no value (is a shell variable not set?)"),
        ("+epochs=3", "write epochs=3"),
        ("model._target_=os.system", "model._target_=os.system: not a trusted package"),
        ("tracking.project=${oc.env:WANDB_API_KEY}", "a key or token must not stand in a"),
        ("slurm.setup=['login ${oc.env:HUB_TOKEN}']", "a key or token must not stand in a"),
        ("slurm.env={HUB: '${oc.env:HUB_TOKEN}'}", "a key or token must not stand in a"),
        ("trusted_packages=[.models]", "importing .models failed"),
        ("slurm.account='a\nrm -rf'", r"slurm.account=a\nrm -rf: holds a line break"),
    ],
)
def test_a_mistake_is_named_with_its_remedy(override: str, message: str) -> None:
    (fault,) = faults_of(override)
    assert message in fault


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["strategy=single", "gpus=2"],
            "strategy.name=single: takes one device, not the 2 of gpus=2",
        ),
        (["strategy=single", "strategy.sync_batchnorm=true"], "strategy.sync_batchnorm=true"),
        (
            ["data.repeats=3", "data.batch_size=64", "gpus=2"],
            "data.repeats=3: each image stands so often in a step, and data.batch_size=64 is no "
            "multiple of it; set data.batch_size=60 or 66",
        ),
        (
            ["data.start_size=256", "data.image_size=224"],
            "data.start_size=256: larger than data.image_size=224, to which the images grow; set a "
            "smaller one, or null",
        ),
        (
            ["gpus=3", "data.batch_size=64"],
            "data.batch_size=64: not divisible by 3 ranks; set data.batch_size=63 or 66",
        ),
        (["data.batch_size=64", "data.micro_batch_size=48"], "x data.micro_batch_size=48 = 48"),
        (
            ["data.class_weights=inverse_frequency", "model.class_weights=[1,1,1,1,1,1,1,1,1,1]"],
            "would overwrite it",
        ),
        (
            ["model.pretrained=true", "model.weights=/no/file.pth"],
            "it goes before model.pretrained=true",
        ),
        (
            ["mix.mixup=0.2", "data.batch_size=40", "data.micro_batch_size=5"],
            "need pairs; set data.micro_batch_size=8",
        ),
        (
            ["mix.cutmix=1", "gpus=3", "data.batch_size=63"],
            "21 images a rank, an odd number, but mixup and cutmix need pairs; "
            "set data.batch_size=60 or 66",
        ),
        (
            ["mix.mixup=0.2", "data.repeats=3", "data.batch_size=64", "gpus=4"],
            "data.repeats=3: each image stands so often in a step, and data.batch_size=64 is no "
            "multiple of it; set data.batch_size=48 or 72",
        ),
        (
            ["mix.mixup=0.2", "data.repeats=3", "data.batch_size=65", "gpus=2"],
            "not divisible by 2 ranks; set data.batch_size=60 or 72",
        ),
        (
            ["mix.mixup=0.2", "data.repeats=3", "data.batch_size=62", "gpus=2"],
            "31 images a rank, an odd number, but mixup and cutmix need pairs; "
            "set data.batch_size=60 or 72",
        ),
        (
            ["data.repeats=3", "data.batch_size=40", "data.micro_batch_size=16"],
            "x data.micro_batch_size=16 = 16; set data.batch_size=48",
        ),
        (
            ["model.loss=binary_cross_entropy", "mix.mixup=1", "model.bce_threshold=1"],
            "model.bce_threshold=1.0: no class has a share above 1 of a mixed image, so all of its "
            "targets would be 0; set a number below 1 such as 0.2, or null",
        ),
        (["data.val_fraction=0.6", "data.test_fraction=0.6"], "nothing is left to train on"),
        (["strategy.precision=16-mixed", "strategy.accelerator=cpu"], "needs a GPU"),
        (["strategy.offload_optimizer=true"], "needs a deepspeed strategy"),
        (["strategy=deepspeed_zero2", "strategy.offload_parameters=true"], "=deepspeed_zero3"),
        (
            ["strategy=deepspeed_zero1", "strategy.offload_optimizer=true", ON_CPU],
            "moves memory from a GPU to the CPU",
        ),
        (["strategy.sync_batchnorm=true", ON_CPU], "SyncBatchNorm computes on GPUs only"),
        (["strategy.compile=true", "strategy.gradient_checkpointing=true"], "would count their"),
        (["strategy=deepspeed_zero3", "strategy.compile=true"], "set strategy.compile=false"),
        (
            [
                "data.cache=device",
                "data.augment.policy=rand_augment",
                "data.augment.hue=0.1",
                "data.interpolation=bicubic",
            ],
            "take out data.augment.hue, data.augment.policy, data.interpolation=bicubic, or set "
            "data.cache=ram",
        ),
        (["data.cache=device", "data.micro_batch_size=auto"], "set a number, or data.cache=ram"),
        (["strategy.compile_mode=reduce-overhead"], "nothing is compiled; set strategy.compile=t"),
        (
            ["strategy.compile=true", "strategy.compile_mode=max-autotune", ON_CPU],
            "CUDA graphs need a GPU; on a CPU set strategy.compile_mode=default",
        ),
        (
            [
                "strategy=deepspeed_zero1",
                "strategy.compile=true",
                "strategy.compile_mode=reduce-overhead",
            ],
            "memory that a CUDA graph would write to again; set strategy.compile_mode=default",
        ),
        (
            ["strategy=deepspeed_zero3", "strategy.find_unused_parameters=true"],
            "set strategy=deepspeed_zero2, or strategy.find_unused_parameters=false",
        ),
        (["model.freeze_epochs=-1"], "model.freeze_epochs=-1"),
        (["data.micro_batch_size=0"], "expected a whole number of at least 1, auto, or null"),
        (["data.micro_batch_size=many"], "expected a whole number of at least 1, auto, or null"),
        (["data.micro_batch_size=auto", ON_CPU], "finds what a GPU's memory holds"),
    ],
)
def test_values_that_do_not_go_together_are_reported(overrides: list[str], message: str) -> None:
    assert any(message in fault for fault in faults_of(*overrides))


def test_one_message_holds_every_mistake_so_that_one_more_try_is_enough() -> None:
    with pytest.raises(ConfigError) as caught:
        compose(
            ["data.batchsize=16", "epochs=ten", "model=resnet19", "nodes=-1", "name=a/b", "+x=1"]
        )
    text = str(caught.value)
    assert text.startswith("6 faults in the configuration:\n- ")
    for given in (
        "data.batchsize=16:",
        "epochs=ten:",
        "model=resnet19:",
        "nodes=-1:",
        "name=a/b:",
        "+x=1:",
    ):
        assert f"\n- {given}" in text


def test_a_missing_data_folder_is_found_before_anything_runs(tmp_path: Path) -> None:
    assert any("data.root" in fault for fault in faults_of("data=imagefolder"))
    missing = tmp_path / "nowhere"
    faults = faults_of("data=imagefolder", f"data.root={missing}", "model.top_k=0")
    assert any(str(missing) in fault for fault in faults)
    assert any(fault.startswith("model.top_k=0") for fault in faults)


def test_a_class_that_only_the_validation_images_have_is_found_before_anything_runs(
    tmp_path: Path,
) -> None:
    make_images(tmp_path, "train/cat", "train/dog", "val/cat", "val/wolf")
    faults = faults_of("data=imagefolder", f"data.root={tmp_path}")
    assert any("wolf" in fault for fault in faults)


def test_the_classes_of_a_folder_are_counted_before_anything_runs(tmp_path: Path) -> None:
    make_images(tmp_path, "train/cat", "train/dog", "val/cat", "val/dog")
    given = ["data=imagefolder", f"data.root={tmp_path}", "data.batch_size=2"]
    assert any("the data has 2 classes" in f for f in faults_of(*given, "model.num_classes=3"))
    assert resolve(compose([*given, "model.top_k=2"])).model.num_classes == 2


def test_a_recipe_is_a_whole_run_and_the_command_line_still_wins(tmp_path: Path) -> None:
    make_images(tmp_path, "train/7", "train/8", "val/7", "val/8")
    given = ["recipe=jersey", f"data.root={tmp_path}", "data.batch_size=2"]
    cfg = compose(given)
    assert (cfg.model._target_, cfg.model.pretrained) == ("clf.models.resnet.ResNet50Model", True)
    assert (cfg.data.name, cfg.data.augment.horizontal_flip) == ("imagefolder", 0.0)
    cfg = compose([*given, "model=resnet18", "model.pretrained=false", "epochs=7"])
    assert (cfg.model._target_, cfg.epochs) == ("clf.models.resnet.ResNet18Model", 7)


def test_every_recipe_says_how_it_is_run_and_what_it_was_measured_at() -> None:
    for path in (CONFIG_DIR / "recipe").glob("*.yaml"):
        opening = path.read_text().split("defaults:")[0]
        assert "python launch/" in opening
        assert f"recipe={path.stem}" in opening
        assert "nmeasured" in opening or "top-1" in opening


@pytest.fixture
def own_configs(tmp_path: Path) -> Path:
    import shutil

    return shutil.copytree(CONFIG_DIR, tmp_path / "configs")


def test_mistakes_in_a_users_own_recipe_are_reported_with_its_file(own_configs: Path) -> None:
    (own_configs / "recipe" / "mine.yaml").write_text(
        "# @package _global_\nepochs: many\ndata:\n  batchsize: 12\nmodel:\n  top_k: 99\n"
    )
    faults = faults_of("recipe=mine", "nodes=0", config_dir=own_configs)
    assert any("data.batchsize=12: no such key (in configs/recipe/mine.yaml)" in f for f in faults)
    assert any("epochs=many" in f and "configs/recipe/mine.yaml" in f for f in faults)
    assert any(f.startswith("model.top_k=99") for f in faults)
    assert any(f.startswith("nodes=0") for f in faults)


def test_a_file_that_is_not_yaml_is_a_fault_and_not_a_traceback(own_configs: Path) -> None:
    (own_configs / "recipe" / "mine.yaml").write_text("# @package _global_\nepochs: [1\n")
    faults = faults_of("recipe=mine", "nodes=0", config_dir=own_configs)
    assert any("mine.yaml" in fault for fault in faults)
    assert any(fault.startswith("nodes=0") for fault in faults)


def test_a_saved_run_loads_as_it_was_and_resolving_it_again_changes_nothing(tmp_path: Path) -> None:
    cfg = resolve(compose(["epochs=3", "data.augment.jpeg=0.5"]), datetime(2026, 1, 2, 3, 4, 5))
    assert cfg.name == "digits-resnet18-20260102-030405"
    assert Path(cfg.runs_dir).is_absolute()
    assert cfg.model.num_classes == 10
    save(cfg, tmp_path / "config.yaml")
    assert load(tmp_path / "config.yaml") == cfg
    assert resolve(load(tmp_path / "config.yaml")) == cfg


def test_wrong_edits_of_a_saved_run_are_reported_with_its_file(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    save(resolve(compose()), path)
    path.write_text(path.read_text().replace("epochs: 10", "epochs: ten\nepoch: 3", 1))
    with pytest.raises(ConfigError) as caught:
        load(path)
    assert len(caught.value.faults) == 2
    assert all(str(path) in fault for fault in caught.value.faults)
    with pytest.raises(ConfigError, match="cannot be read"):
        load(tmp_path / "nowhere.yaml")


def test_a_checkpoint_of_another_version_is_refused_for_its_unknown_keys() -> None:
    with pytest.raises(ConfigError, match="no such key"):
        from_dict({"epochs": 3, "learning_rat": 1})


def test_what_compose_gives_has_no_fault_of_its_own() -> None:
    assert check(compose()) == []
    assert check(compose(config_name="debug")) == []


def test_of_a_key_that_is_given_twice_the_last_counts_with_a_note() -> None:
    examined = examine(["nodes=3", "nodes=2"])
    assert examined.faults == []
    assert examined.cfg is not None
    assert examined.cfg.nodes == 2
    assert examined.notes == ["nodes is given twice: nodes=2 counts, nodes=3 does not"]


@pytest.mark.parametrize(
    ("overrides", "note"),
    [
        (
            ["mix.probability=0.5"],
            "mix.probability=0.5: has no effect without mix.mixup or mix.cutmix above 0",
        ),
        (
            ["model.loss=logit_adjustment", "data.sampler=class_balanced"],
            "model.loss=logit_adjustment: corrects for rare classes, and so does "
            "data.sampler=class_balanced",
        ),
        (
            ["model.loss=logit_adjustment", "data.class_weights=effective_number"],
            "model.loss=logit_adjustment: corrects for rare classes, and so does "
            "data.class_weights=effective_number",
        ),
    ],
)
def test_what_is_probably_an_oversight_is_a_note(overrides: list[str], note: str) -> None:
    assert examine(overrides).notes == [note]
    others = [one for one in overrides if one != "model.loss=logit_adjustment"]
    assert examine([*others, "mix.mixup=0.2"]).notes == []


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optimizer=sgd", "did you mean model.optimizer?"),
        ("modle=resnet50", "did you mean model?"),
        ("model.momentum=0.9", "it is a setting of model.optimizer=lars, muon or sgd"),
        ("model.optimizer=sgdd", "expected one of adamw, lamb, lars, muon, sgd; did you mean sgd?"),
        ("zzz=1", "--settings lists them all"),
        ("data.grayscale=true", "data.grayscale=true: no such key; --settings data lists those of"),
        ("epochs.x=1", "epochs.x=1: no such key"),
        ("model.layer_decay=0", "model.layer_decay=0.0: expected a number above 0 and at most 1"),
        ("epochs=0", "epochs=0: expected a number of at least 1"),
    ],
)
def test_a_suggestion_is_near_what_was_typed_or_is_not_made(override: str, message: str) -> None:
    (fault,) = faults_of(override)
    assert message in fault


@pytest.mark.parametrize(
    ("words", "notes"),
    [
        ([], []),
        (
            ["model.warmup_epochs=5"],
            ["model.warmup_epochs=5: fills all of epochs=2; model.schedule=cosine does not begin"],
        ),
        (
            ["model.schedule=step", "model.step_epochs=[30,60]", "model.warmup_epochs=1"],
            [
                "model.step_epochs=[30,60]: epochs=2 end before the learning rate falls at epoch "
                "30 and 60"
            ],
        ),
        (
            ["model.schedule=step", "model.step_every=2"],
            ["model.step_every=2: epochs=2 end before the learning rate falls at epoch 2"],
        ),
        (["mix.mixup=0.2", "mix.off_epochs=5"], ["mix.off_epochs=5: none of epochs=2 is mixed"]),
        (["model.freeze_epochs=5"], []),
        (["data.start_size=16", "data.grow_until=1"], []),
    ],
)
def test_a_short_try_of_a_long_run_is_not_refused(words: list[str], notes: list[str]) -> None:
    examined = examine(["epochs=2", "limit_batches=1", *words])
    assert examined.faults == []
    assert examined.notes == notes


@pytest.mark.parametrize(
    ("words", "note"),
    [
        (["model.bce_threshold=0.2"], "model.bce_threshold=0.2: has no effect without mix.mixup"),
        (["model.bce_threshold=0.7", "mix.cutmix=1"], "has a share above it, all targets are 0"),
        (["model.bce_threshold=0.2", "mix.cutmix=1"], ""),
    ],
)
def test_a_threshold_that_does_not_do_what_one_expects_is_a_note(
    words: list[str], note: str
) -> None:
    examined = examine(["model.loss=binary_cross_entropy", *words])
    assert examined.faults == []
    assert note in "".join(examined.notes)
    assert len(examined.notes) == bool(note)


def test_a_recipe_may_be_anywhere_and_chooses_files_as_the_command_line_does(
    tmp_path: Path,
) -> None:
    mine = tmp_path / "my recipe.yaml"
    mine.write_text("model: resnet50\nepochs: 7\ndata:\n  batch_size: 32\n")
    cfg = compose([f"recipe={mine}", "seed=3"])
    assert cfg.model._target_ == "clf.models.resnet.ResNet50Model"
    assert (cfg.epochs, cfg.data.batch_size, cfg.seed) == (7, 32, 3)
    (fault,) = faults_of(f"recipe={tmp_path}/none.yaml")
    assert "no such file; looked for" in fault


def test_a_runs_own_config_is_a_recipe_for_a_new_run(tmp_path: Path) -> None:
    first = resolve(compose(["epochs=3", f"runs_dir={tmp_path}", "name=first", "seed=5"]))
    (tmp_path / "first").mkdir()
    save(first, tmp_path / "first" / "config.yaml")
    again = compose([f"recipe={tmp_path}/first/config.yaml", "epochs=4"])
    assert (again.seed, again.epochs, again.name) == (5, 4, None)
    assert again.runs_dir == "runs"


def test_a_choice_that_is_typed_wins_over_a_runs_own_config(tmp_path: Path) -> None:
    first = resolve(compose([f"runs_dir={tmp_path}", "name=first", "model.learning_rate=0.3"]))
    (tmp_path / "first").mkdir()
    save(first, tmp_path / "first" / "config.yaml")
    recipe = f"recipe={tmp_path}/first/config.yaml"
    cfg = compose([recipe, "model=resnet50", "strategy=ddp"])
    assert cfg.model._target_ == "clf.models.resnet.ResNet50Model"
    assert (cfg.model.learning_rate, cfg.strategy.name) == (0.3, "ddp")
    assert (cfg.data.name, cfg.data.root) == ("digits", first.data.root)
    first.data.stage = "node"
    save(first, tmp_path / "first" / "config.yaml")
    other = compose([recipe, "data=jersey"])
    assert (other.data.name, other.data.image_size, other.data.root) == ("jersey", 64, None)
    assert (other.data.stage, other.model.num_classes) == (compose([]).data.stage, None)


def test_a_users_own_callback_must_be_trusted_and_name_its_class() -> None:
    target = "{_target_: lightning.pytorch.callbacks.Timer}"
    (fault,) = faults_of(f"callbacks=[{target}]")
    assert fault.startswith("callbacks.0._target_=lightning.pytorch.callbacks.Timer: not a trusted")
    (fault,) = faults_of("callbacks=[{patience: 3}]")
    assert "does not say which class to build" in fault
    cfg = compose([f"callbacks=[{target}]", "trusted_packages=[lightning]"])
    assert cfg.callbacks == [{"_target_": "lightning.pytorch.callbacks.Timer"}]


def test_yaml_is_read_as_a_person_reads_it(own_configs: Path) -> None:
    (own_configs / "recipe" / "mine.yaml").write_text(
        "model:\n  learning_rate: 1e-4\ntracking:\n  project: on\n  tags: [yes, 12:30:00]\n"
        "slurm:\n  time: 12:00:00\n"
    )
    cfg = compose(["recipe=mine"], config_dir=own_configs)
    assert (cfg.model.learning_rate, cfg.slurm.time) == (1e-4, 720)
    assert (cfg.tracking.project, cfg.tracking.tags) == ("on", ["yes", "12:30:00"])
    (own_configs / "recipe" / "mine.yaml").write_text("epochs: 3\nseed: 1\nepochs: 4\n")
    (fault,) = faults_of("recipe=mine", config_dir=own_configs)
    assert "mine.yaml: cannot be read" in fault
    assert "the key epochs stands twice" in fault
