"""The user's own YAML files: what may be written in them, and the fault for anything else."""

import shutil
from dataclasses import asdict
from pathlib import Path

import pytest
from PIL import Image

from clf.config.compose import CONFIG_DIR, read
from clf.config.saved import from_dict, load, save
from clf.plan import compose, examine


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    return tmp_path / "mine.yaml"


def test_a_part_is_merged_into_another_and_overwritten_there(recipe: Path) -> None:
    recipe.write_text(
        "slurm:\n  env: &all {A: one, B: two}\n"
        "  options:\n    <<: *all\n    B: three\n"
        "data:\n  <<: [{batch_size: 32}, {threads: 1}]\n"
    )
    cfg = read([f"recipe={recipe}"]).cfg
    assert cfg is not None
    assert cfg.slurm.options == {"A": "one", "B": "three"}
    assert (cfg.data.batch_size, cfg.data.threads) == (32, 1)


def test_a_key_is_the_text_that_is_written_and_so_is_an_environment_variable(recipe: Path) -> None:
    recipe.write_text("slurm:\n  env: {1: a, on: b, null: c, FLAG: true, NUMBER: 2}\n")
    cfg = read([f"recipe={recipe}", "slurm.env.OTHER=false"]).cfg
    assert cfg is not None
    expected = {"1": "a", "on": "b", "null": "c", "FLAG": "true", "NUMBER": "2", "OTHER": "false"}
    assert cfg.slurm.env == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- a\n", "expected keys and values"),
        ("false\n", "expected keys and values"),
        ("data: {threads: 1, threads: 1}\n", "the key threads stands twice at line 1, column 8"),
        ("data: {? [a] : 1}\n", "a key must be a text"),
        ("data: &a {augment: *a}\n", "contains itself"),
        ("defaults: 3\n", "defaults: expected a list"),
        ("data: [1]\n", "data=[1]: expected keys and values (in "),
        ("model: resnet5\n", "model=resnet5: no such model (in "),
        ("recipe: other\n", "recipe=other: a recipe cannot choose another one (in "),
        ("defaults: [nowhere]\n", "Could not load"),
        ("slurm: {env: {A: '${'}}\n", "cannot be read: no viable alternative"),
        ("slurm: {setup: ['echo ${HOME}']}\n", "slurm.setup[0]: Interpolation key 'HOME'"),
    ],
)
def test_an_invalid_recipe_is_a_fault_that_names_its_file(
    recipe: Path, text: str, message: str
) -> None:
    recipe.write_text(text)
    (fault,) = read([f"recipe={recipe}"]).faults
    assert message in fault
    assert "mine.yaml" in fault or "write \\${" in fault
    assert "own_recipe" not in fault


def test_an_empty_recipe_changes_nothing(recipe: Path) -> None:
    recipe.write_text("# nothing yet\n")
    assert compose([f"recipe={recipe}"]) == compose()


@pytest.mark.parametrize("text", ["echo ${HOME}", r"echo \${HOME}", "${", "a$b"])
def test_a_shell_variable_stays_as_it_is_in_a_saved_run(tmp_path: Path, text: str) -> None:
    cfg = compose()
    cfg.slurm.setup = [text]
    save(cfg, tmp_path / "config.yaml")
    assert load(tmp_path / "config.yaml") == cfg
    assert from_dict(asdict(cfg)) == cfg


def test_a_folder_of_files_is_forgotten_when_another_is_read(tmp_path: Path) -> None:
    own = shutil.copytree(CONFIG_DIR, tmp_path / "configs")
    shutil.copy(own / "train.yaml", own / "only_here.yaml")
    assert not read([], "only_here", own).faults
    (fault,) = read([], "only_here").faults
    assert "Cannot find primary config 'only_here'" in fault


def test_a_tree_of_the_wrong_types_is_a_fault() -> None:
    for tree in ({"trusted_packages": 3}, {"trusted_packages": "abc"}, {1: 2}, {"model": 3}):
        with pytest.raises(ValueError, match="1 fault in the configuration"):
            from_dict(tree)


def test_what_a_recipe_sets_for_a_choice_that_was_replaced_is_left_out_with_a_note(
    recipe: Path,
) -> None:
    recipe.write_text(
        "defaults: [override /data: jersey]\ndata: {images: 500, threads: 1}\n"
        "model: {optimizer: sgd, momentum: 0.8}\n"
    )
    examined = examine([f"recipe={recipe}", "model.optimizer=adamw", "data=digits"])
    assert examined.faults == []
    assert examined.cfg is not None
    assert (examined.cfg.model.optimizer, examined.cfg.data.threads) == ("adamw", 1)
    source = f"is not used (in {recipe}); it is a setting of"
    assert sorted(examined.notes) == [
        f"data.images=500: {source} data.name=jersey, and another one is chosen",
        f"model.momentum=0.8: {source} model.optimizer=lars, muon or sgd, and another one is "
        "chosen",
    ]
    (fault,) = read([f"recipe={recipe}", "model.optimizer=adamw", "model.nesterov=true"]).faults
    assert fault.startswith("model.nesterov=true: no such key; it is a setting of")
    recipe.write_text("model: {momentum: 0.8}\n")  # it chooses no optimizer that has it
    (fault,) = read([f"recipe={recipe}"]).faults
    assert fault.startswith("model.momentum=0.8: no such key (in ")


def test_a_recipe_may_name_the_folder_of_its_images(recipe: Path, tmp_path: Path) -> None:
    for name in ("cat/1.png", "dog/1.png", "cat/2.png", "dog/2.png"):
        (tmp_path / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(tmp_path / "images" / name)
    recipe.write_text(f"data: {tmp_path}/images\n")
    cfg = compose([f"recipe={recipe}", "data.batch_size=1", "data.test_fraction=0"])
    assert (cfg.data.name, cfg.data.root) == ("imagefolder", f"{tmp_path}/images")


def test_a_run_of_before_the_jersey_settings_moved_can_still_be_read() -> None:
    before = {"data": {"name": "jersey", "jersey": {"images": 500, "size": 64, "seed": 3}}}
    data = vars(from_dict(before).data)
    assert (data["images"], data["pixels"], data["render_seed"]) == (500, 64, 3)
    before = {"data": {"name": "digits", "jersey": {"images": 500}}}
    assert from_dict(before) == from_dict({"data": {"name": "digits"}})
