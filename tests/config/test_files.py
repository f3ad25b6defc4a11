"""YAML files of the user's own: what a person may write in them, and the fault of what not."""

import shutil
from dataclasses import asdict
from pathlib import Path

import pytest

from clf.config.compose import CONFIG_DIR, from_dict, load, read, save
from clf.plan import compose


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
def test_what_a_recipe_cannot_be_is_a_fault(recipe: Path, text: str, message: str) -> None:
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
