"""Finds out whether there is a key for Weights & Biases, without importing it."""

import netrc
import os
from urllib.parse import urlsplit

NO_KEY = "there is no key: type `wandb login`, or set WANDB_API_KEY"


def has_key(server: str) -> bool:
    """Looks where W&B does, but never asks the person at the terminal."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    paths = [os.environ["NETRC"]] if os.environ.get("NETRC") else ["~/.netrc", "~/_netrc"]
    path = next((found for found in map(os.path.expanduser, paths) if os.path.exists(found)), None)
    try:
        entries = netrc.netrc(path) if path else None
    except (OSError, netrc.NetrcParseError):
        return False
    hosts = (urlsplit(server).netloc, "api.wandb.ai")  # an alias of the default server
    return entries is not None and any(entries.authenticators(host) for host in hosts)
