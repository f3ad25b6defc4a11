"""Starts a run of Weights & Biases, and ends its own process where that does not react."""

import contextlib
import os
import re
import signal
import socket
from typing import Any, Literal

from clf.tracking.nodes import node_name
from clf.tracking.wandb_key import NO_KEY, has_key, unreachable

INIT_TIMEOUT_S = 20  # a job without network would wait for all of W&B's own 90 seconds
# For the upload of the rest when a process ends; a preempted one must leave within seconds.
FINISH_TIMEOUT_S = 10

Mode = Literal["online", "offline", "shared"]


def chosen_mode() -> str:
    """What the environment, or `wandb offline` and `wandb disabled`, ask for: "disabled",
    "offline", "online" or "shared"; "auto" if nothing does."""
    if os.environ.get("WANDB_DISABLED", "").lower() in ("1", "true", "yes", "on"):
        return "disabled"
    if asked := os.environ.get("WANDB_MODE", ""):
        return {"dryrun": "offline", "run": "online"}.get(asked, asked)
    import wandb

    try:
        kept = wandb.setup().settings.mode  # of W&B's own settings files, in ./wandb and in home
    except Exception:  # as in `start_run`, which will say what is wrong
        return "auto"
    return {"dryrun": "offline", "offline": "offline", "disabled": "disabled"}.get(kept, "auto")


def start_online(mode: Mode, arguments: dict[str, Any]) -> tuple[Any, str]:
    """(run, "") or (None, why W&B cannot be used online)."""
    import wandb

    try:
        settings = wandb.setup().settings  # from the environment and W&B's own files
    except Exception as error:  # as in `start_run`
        return None, said(error)
    if not (settings.api_key or has_key(settings.base_url)):
        return None, NO_KEY
    problem = unreachable(settings.base_url)
    if problem:
        return None, problem
    return start_run(mode, arguments, **({"x_label": node_name()} if mode == "shared" else {}))


def start_run(mode: Mode, arguments: dict[str, Any], **settings: Any) -> tuple[Any, str]:
    """(a run of W&B, "") or (None, why there is none).

    Args:
        arguments: of `wandb.init`
        settings: of W&B, beside our own
    """
    import wandb

    problem = ""
    if _forget_dead_service():
        let_go()
    for _ in range(2):
        try:
            run = wandb.init(mode=mode, settings=_settings(**settings), **arguments)
            # The SDK counts its own calls, so a resumed run would be drawn over its first part.
            run.define_metric("trainer/global_step")
            run.define_metric("*", step_metric="trainer/global_step", step_sync=True)
            return run, ""
        except Exception as error:  # W&B's errors have no common class, and none is worth a run
            problem = said(error)
            let_go()
            # W&B's own process may be gone, or be one that the environment names and that has
            # ended. A server that does not answer is not waited for twice.
            if os.environ.pop(wandb.env.SERVICE, None) is None and mode != "offline":
                break
    return None, problem


def _forget_dead_service() -> bool:
    """Whether the environment named a process of W&B that has ended. Left alone, W&B would make a
    folder for a run before it noticed."""
    import wandb

    address = os.environ.get(wandb.env.SERVICE, "").partition("-unix-")[2]
    if not address:
        return False
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(5)
        try:
            connection.connect(address)
        except OSError:
            os.environ.pop(wandb.env.SERVICE)
            return True
    return False


def end_service() -> None:
    """Kill W&B's own process, if this process has started it: it does not react."""
    import wandb

    found = re.search(r"/wandb-(\d+)-(\d+)-", os.environ.get(wandb.env.SERVICE, ""))
    if found and int(found[1]) == os.getpid():
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(found[2]), signal.SIGKILL)
    let_go()


def let_go() -> None:
    """End W&B's own process, if it is still there; takes 2 s, in which it writes its memory to the
    disk."""
    import wandb

    with contextlib.suppress(Exception):  # that process is gone, which is what is wanted
        wandb.teardown()


def _settings(**settings: Any) -> Any:
    import wandb

    return wandb.Settings(
        init_timeout=INIT_TIMEOUT_S,
        login_timeout=INIT_TIMEOUT_S,
        finish_timeout=FINISH_TIMEOUT_S,
        finish_timeout_raises=True,
        reinit="finish_previous",
        silent=True,
        # The metadata has the command line, and the output anything: both can hold secrets.
        x_disable_meta=True,
        console="off",
        disable_code=True,
        save_code=False,
        disable_git=True,
        **settings,
    )


def said(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".rstrip(": ")
