"""A gallery of test persons, and a server of it, for tests of the page and of what programs ask."""

from __future__ import annotations

import shutil
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import uvicorn
from starlette.types import ASGIApp

from bdam_reid.data.datasets import load_dataset
from bdam_reid.search.__main__ import main


def make_index(run: Path, people: Path, root: Path) -> Path:
    """Copies the test persons' photographs to root/gallery, and makes root/index of them and a table."""
    gallery, lines = root / "gallery", ["path,person,camera,time"]
    gallery.mkdir()
    for number, record in enumerate(load_dataset(people).protocols["test"].gallery):
        name = f"a & b #{number}.jpg"
        shutil.copy(record.path, gallery / name)
        lines.append(f"{name},{record.identity},{record.camera},{number}")
    (root / "table.csv").write_text("\n".join(lines))
    places = [str(root / name) for name in ("gallery", "index", "table.csv")]
    main(["index", str(run), places[0], "--output", places[1], "--table", places[2]])
    return root / "index"


@contextmanager
def serving(app: ASGIApp) -> Iterator[str]:
    """The address of an application that a thread serves."""
    server = uvicorn.Server(uvicorn.Config(app, log_level="critical", ws="none", timeout_graceful_shutdown=1))
    with socket.create_server(("127.0.0.1", 0), backlog=256) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        while not server.started and thread.is_alive():
            time.sleep(0.01)
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()
