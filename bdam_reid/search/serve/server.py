"""Serves the page and the API of an index until a signal ends it."""

from __future__ import annotations

import logging
import os
import re
import secrets
import socket
import tempfile
from dataclasses import dataclass
from importlib.util import find_spec
from ipaddress import ip_address
from pathlib import Path

from bdam_reid.config import ConfigError, Presets
from bdam_reid.engine.signals import handled_by

TOKEN = "BDAM_SEARCH_TOKEN"
"""Environment variable of an access token."""
LOCAL = ("127.0.0.1", "localhost", "[::1]")
"""Names by which a server on loopback is asked."""
PATIENCE = 1
"""Seconds that open connections have at the end: an open page holds one."""


@dataclass(frozen=True)
class Address:
    """Where a server listens."""

    host: str
    port: int
    """0 takes a free one."""


def serve_index(index: Path, address: Address, presets: Presets, *, model: str = "", device: str = "auto") -> None:
    """Serve an index until SIGINT, SIGTERM or SIGHUP.

    A token is needed to ask a server that other machines reach: the one of the environment, or one that is made and
    printed.

    Args:
        index: its folder.
        address: where to listen.
        presets: where the preset of a run is looked up.
        model: where the model lies now, if not where it was when the index was made.
        device: as torch names it; "auto" is the GPU where there is one.
    Raises: CheckpointError, ConfigError; OSError if the address cannot be had.
    """
    for package in ("gradio", "fastapi_offline"):
        if find_spec(package) is None:
            raise ConfigError(f"serve needs {package}, which is not installed: pip install -e '.[search]'")
    token = os.environ.get(TOKEN, "") or ("" if is_loopback(address.host) else secrets.token_urlsafe(24))
    if not re.fullmatch(r"[\w.~-]*", token, re.ASCII):
        raise ConfigError(f"{TOKEN} must be of letters, digits and - . _ ~, as addresses are, got others")
    with _listening(address) as listener, tempfile.TemporaryDirectory(prefix="bdam-search-") as sent:
        # Before gradio is imported: it asks the network for its newest version otherwise.
        os.environ.update(GRADIO_ANALYTICS_ENABLED="False", GRADIO_TEMP_DIR=sent, HF_HUB_DISABLE_TELEMETRY="1")
        _run(index, listener, token, presets, model, device)


def is_loopback(host: str) -> bool:
    """Whether an address is of this machine alone."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _listening(address: Address) -> socket.socket:
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    try:
        return socket.create_server((address.host, address.port), family=family, backlog=1024)
    except (OSError, OverflowError) as error:
        raise ConfigError(f"cannot listen on {address.host} port {address.port}: {error}") from error


def _run(index: Path, listener: socket.socket, token: str, presets: Presets, model: str, device: str) -> None:
    import uvicorn

    from bdam_reid.search.serve.api import make_api
    from bdam_reid.search.serve.guard import LARGEST, Guard, usual_limits
    from bdam_reid.search.serve.live import Live
    from bdam_reid.search.serve.page import add_page

    live = Live(index, presets, model=model, device=device)
    app = Guard(add_page(make_api(live), live, LARGEST), token, LOCAL, usual_limits())
    # The address of a proxy is that of the client: who asks could give any other.
    config = uvicorn.Config(
        app, log_level="error", access_log=False, server_header=False, ws="none", proxy_headers=False,
        timeout_graceful_shutdown=PATIENCE,
    )  # fmt: skip

    class Server(uvicorn.Server):
        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            # What an open page listens to is cut off, which uvicorn takes for a fault of the application.
            logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
            await super().shutdown(sockets)

    server = Server(config)

    def end(*_: object) -> None:
        server.should_exit = True

    host, port = listener.getsockname()[:2]
    name = f"[{host}]" if ":" in host else host
    print(f"http://{name}:{port}/{f'?token={token}' if token else ''} (Ctrl-C ends it)", flush=True)
    # uvicorn raises a signal that ended it once more, for who called it.
    with handled_by(end):
        server.run(sockets=[listener])
