"""A Hugging Face repository of exported files: its folder, and the upload."""

import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clf.atomic import write_folder
from clf.config.faults import ConfigError

NAME = r"[A-Za-z0-9][\w.-]{0,95}"  # of an owner, and of a repository


@dataclass(frozen=True)
class Pushed:
    """The folder as it lies here, and the address of the repository; None: not uploaded."""

    folder: Path
    url: str | None


def check_repository(name: str) -> None:
    """ConfigError if no repository can have this name."""
    if not re.fullmatch(f"{NAME}/{NAME}", name):
        raise ConfigError([f"--push {name}: expected OWNER/NAME, such as --push me/digits"])


def push(export: Path, config: dict[str, Any], repository: str, public: bool) -> Pushed:
    """Write the folder of a repository beside exported files, and upload it if there is a token.

    Args:
        export: the folder with README.md, config.json and the files that it names
        config: its config.json
        public: a repository that is new is not private

    Raises:
        ConfigError: the upload failed; the folder is there
    """
    folder = export / "hub" / repository.rpartition("/")[2]
    shutil.rmtree(folder, ignore_errors=True)

    def fill(temporary: Path) -> None:
        for name in ("README.md", "config.json", *config["files"]):
            shutil.copy2(export / name, temporary / name)

    write_folder(folder, fill)
    try:
        from huggingface_hub import HfApi, get_token
    except ImportError:
        raise ConfigError(
            [
                f"--push needs the package huggingface_hub: pip install 'clf[export]'. {folder} is "
                "written"
            ]
        ) from None
    token = get_token()
    if not token:
        return Pushed(folder, None)
    api = HfApi(token=token)
    try:
        api.create_repo(repository, private=not public, exist_ok=True)
        api.upload_folder(
            repo_id=repository, folder_path=folder, commit_message=f"Export of {config['name']}"
        )
    except Exception as error:  # of the client, of what it builds on, and of the network
        reason = " ".join(str(error).replace(token, "***").split())[:400]
        raise ConfigError(
            [
                f"--push {repository}: the upload failed ({type(error).__name__}: {reason}). "
                f"{folder} is whole; once that is put right, type the command again, or "
                f"hf upload {repository} {folder}"
            ]
        ) from None
    return Pushed(folder, f"{api.endpoint}/{repository}")
