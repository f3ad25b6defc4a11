"""Finds out whether Weights & Biases can be used from here, without importing it: is there a key,
and does the server answer?"""

import netrc
import os
import socket
import urllib.request
from urllib.parse import urlsplit

CONNECT_TIMEOUT_S = 5
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


def unreachable(server: str) -> str:
    """Why the server cannot be reached; "" if it answers, or if a proxy is in between.

    W&B itself would try again until its time is over.
    """
    parts = urlsplit(server)
    host = parts.hostname or ""
    if parts.scheme in urllib.request.getproxies() and not urllib.request.proxy_bypass(host):
        return ""
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        socket.create_connection((host, port), CONNECT_TIMEOUT_S).close()
    except OSError as error:
        return f"{server} cannot be reached: {error}"
    return ""
