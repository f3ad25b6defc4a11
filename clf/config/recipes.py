"""Recipes: where a run's settings come from one file, `recipe=NAME` or `recipe=/path/to/mine.yaml`,
which may be the config.yaml of another run."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from clf.config.faults import show
from clf.config.files import CHOOSES, ConfigFiles
from clf.config.given import Setting

OWN_RECIPE = "own_recipe"  # Hydra's name for a recipe from outside of configs/


def own_recipes(settings: list[Setting], files: ConfigFiles) -> tuple[list[Setting], list[str]]:
    """Turn `recipe=/path/mine.yaml` into a choice of that file, which is added to the others."""
    faults: list[str] = []
    kept = []
    for setting in settings:
        text = str(setting.choice)
        if setting.key == "recipe" and _is_own(text, files):
            path = Path(text).expanduser().absolute()
            if not path.is_file():
                faults.append(f"recipe={text}: {_no_recipe(path, files)}")
                continue
            _drop_place_of_run(files.add("recipe", OWN_RECIPE, path).tree, path)
            setting = Setting("recipe", OWN_RECIPE, text, texts=OWN_RECIPE)
        kept.append(setting)
    return kept, faults


def _is_own(text: str, files: ConfigFiles) -> bool:
    """Whether a text is the path of a recipe, and not the name of one of configs/recipe."""
    by_name = text in files.options("recipe") or not text.strip()
    return text.endswith((".yaml", ".yml")) or os.sep in text or not by_name and Path(text).is_dir()


def _no_recipe(path: Path, files: ConfigFiles) -> str:
    """What is wrong with the path of a recipe that is no file, and what to give."""
    if not path.is_dir():
        return (
            f"no such file; looked for {path}. Give a YAML file, or one of "
            f"{', '.join(files.options('recipe'))}"
        )
    inside = sorted(one.name for one in path.iterdir() if one.suffix in (".yaml", ".yml"))
    if "config.yaml" in inside:  # a run
        return f"is a folder; give its file, recipe={path}/config.yaml"
    held = f"; it holds {', '.join(inside[:5])}" if inside else ", and holds no YAML file"
    return f"is a folder{held}; give a YAML file of settings"


def _drop_place_of_run(tree: dict[str, Any], path: Path) -> None:
    """A run's own config.yaml names its folder, which a new run must not write into."""
    name, runs_dir = tree.get("name"), tree.get("runs_dir")
    if name and runs_dir and path.parent == Path(runs_dir, name):
        del tree["name"], tree["runs_dir"]


def recipe_faults(name: str, files: ConfigFiles) -> Iterator[str]:
    """What is wrong with the choices of a recipe, which Hydra would report without its file."""
    file = files.get("recipe", name)
    if file is None:
        return
    source = f" (in {files.shown(file.path)})"
    for group, value in file.choices.items():
        if group == "recipe":
            yield f"recipe={value}: a recipe cannot choose another one{source}; take the line out"
        elif not files.knows(group, value):
            yield files.no_such(group, value, source)
    for group in sorted(files.groups & file.tree.keys()):
        value = file.tree[group]
        if not isinstance(value, dict | None):
            yield (
                f"{group}={show(value)}: expected keys and values{source}, or one of "
                f"{', '.join(files.options(group))}"
            )


def let_choices_win(choices: dict[str, str], values: list[Setting], files: ConfigFiles) -> None:
    """Take out of the recipe what a typed choice such as model=resnet50 decides. A run's config
    holds its class and its data as plain values, which would otherwise win over the choice."""
    recipe = files.get("recipe", choices.get("recipe", ""))
    for group, option in choices.items():
        held = recipe.tree.get(group) if recipe else None
        key = {**CHOOSES, "strategy": "name"}.get(group, "")
        if not isinstance(held, dict) or key not in held:
            continue
        file = files.get(group, option)
        other_root = any(one.key == "data.root" for one in values)
        if recipe and group == "data" and (other_root or held[key] != option):
            # These belong to the data that the recipe was for.
            _take_out({"root": None, "stage": None}, held)
            _take_out({"model": {"num_classes": None}}, recipe.tree)
        _take_out({key: option} | (file.tree if file else {}), held)


def _take_out(keys: dict[str, Any], tree: dict[str, Any]) -> None:
    for key, value in keys.items():
        if isinstance(value, dict) and isinstance(tree.get(key), dict):
            _take_out(value, tree[key])
        else:
            tree.pop(key, None)
