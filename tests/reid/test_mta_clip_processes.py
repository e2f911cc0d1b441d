"""Several processes train MTA-CLIP as one does, in both stages."""

from __future__ import annotations

import os
import socket
import sys
from functools import partial
from pathlib import Path
from typing import Any

from mta_clip_run import config_of, write_domains
from test_processes import same
from tiny_run import forkserver, train_alone

from bdam_reid.config import Config
from bdam_reid.engine import trainer
from bdam_reid.evaluation import evaluator


def exact(make: Any, *inputs: Any) -> Any:
    """A method in float64."""
    method = make(*inputs).double()
    embeddings = method.image_encoder.model.vision_model.embeddings
    embeddings.register_forward_pre_hook(lambda _, images: (images[0].double(),))
    return method


def compute_share(config: Config, number: int, count: int, port: int) -> None:
    """One of several processes, as a launcher starts it; they end where the first would evaluate."""
    if count > 1:
        names = {"RANK": number, "LOCAL_RANK": number, "WORLD_SIZE": count, "MASTER_PORT": port}
        os.environ |= {name: str(value) for name, value in names.items()} | {"MASTER_ADDR": "127.0.0.1"}
    trainer.make_method = partial(exact, trainer.make_method)
    evaluator.evaluate = lambda *_, **__: sys.exit(0)
    train_alone(config)


def train_in(count: int, config: Config) -> list[int | None]:
    """Train in so many processes; gives how each of them ended."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = [
        forkserver().Process(target=compute_share, args=(config, number, count, port)) for number in range(count)
    ]
    for process in started:
        process.start()
    for process in started:
        process.join()
    return [process.exitcode for process in started]


def test_two_processes_do_what_one_does(tmp_path: Path) -> None:
    domains = write_domains(tmp_path / "domains")
    more = "--method.prompts.epochs 1 --method.images.epochs 1 --method.prompts.overlap-weight 1"
    alone, shared = (config_of("mta-clip", domains, tmp_path / name, more) for name in ("alone", "shared"))
    assert train_in(1, alone) == [0]
    assert train_in(2, shared) == [0, 0]
    same(tmp_path / "alone", tmp_path / "shared")
