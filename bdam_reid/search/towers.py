"""The encoders of a method as ONNX graphs of plain operations, checked in onnxruntime against the method."""

from __future__ import annotations

import logging
import shutil
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.export import Dim
from tqdm.auto import tqdm

from bdam_kernels import use_backend
from bdam_reid.config import ConfigError
from bdam_reid.data.images import normalise
from bdam_reid.engine.exported import GRAPHS, ExportError
from bdam_reid.methods.method import Method
from bdam_reid.methods.text_tower import TextTower

PACKAGES = ("onnx", "onnxscript", "onnxruntime")
OPSET = 20
"""Of the graphs: onnxruntime reads it since 1.17, of February 2024."""
BOUND = 1e-4
"""The largest difference that an entry of an embedding, whose parts are unit vectors, may have in onnxruntime."""
OUTPUT = "embeddings"
SPLITTER = "splitter.py"
"""Copy of the program that splits sentences, for those who have not this package."""
BATCHES = (2, 1, 9)
"""Sizes of the batches that are compared; the first is that of the example from which a graph is made."""


class Tower(NamedTuple):
    """An encoder to be exported."""

    name: str
    """Of its file."""
    module: nn.Module
    """In evaluation mode, on the CPU; it takes the inputs by position."""
    axes: Mapping[str, Mapping[int, Dim]]
    """Of its inputs by name, in order, those axes whose size is open."""
    samples: list[tuple[Tensor, ...]]
    """Random inputs for each of `BATCHES`."""


def check_packages() -> None:
    """Raise ConfigError unless all that graphs are made and checked with is installed."""
    if absent := [package for package in PACKAGES if find_spec(package) is None]:
        raise ConfigError(f"--onnx needs {', '.join(absent)}: pip install -e '.[onnx]'")


def write_towers(method: Method, folder: Path) -> dict[str, Any]:
    """Write `image_encoder.onnx` and, if the method reads sentences, `text_encoder.onnx` and what splits them.

    Args:
        method: on the CPU; it is put into evaluation mode.
    Returns: what export.json says of them: the opset, the axes of their inputs, the largest difference from the method.
    Raises: ExportError if a graph cannot be made, or its embeddings differ by more than `BOUND`.
    """
    method.eval()
    random = torch.Generator().manual_seed(0)
    towers = [_image_tower(method, random)]
    if text := method.text_tower():
        towers.append(_text_tower(text.eval(), random))
        shutil.copyfile(text.splitter, folder / SPLITTER)
    differences = {}
    for tower in tqdm(towers, unit="graph", disable=None):
        path = folder / f"{tower.name}{GRAPHS}"
        write_graph(tower, path)
        differences[tower.name] = check_graph(tower, path)
    return {
        "opset": OPSET,
        "output": OUTPUT,
        "inputs": {tower.name: _shapes(tower) for tower in towers},
        "bound": BOUND,
        "largest_difference": differences,
    }


def write_graph(tower: Tower, path: Path) -> None:
    """Write the ONNX graph of an encoder. Raises: ExportError if it cannot be made; OSError."""
    from onnx_ir.passes.common import ClearMetadataAndDocStringPass

    with _quiet(), torch.no_grad(), use_backend("reference"):
        try:
            program = torch.onnx.export(
                tower.module,
                tower.samples[0],
                dynamo=True,
                opset_version=OPSET,
                input_names=list(tower.axes),
                output_names=[OUTPUT],
                dynamic_shapes=_dynamic(tower),
                verbose=False,
            )
        except torch.onnx.OnnxExporterError as error:
            reason = _first_line(error.__cause__ or error)
            raise ExportError(f"the {tower.name} cannot be written as an ONNX graph: {reason}") from error
    assert program is not None
    # Of each node they say which line of which file of this machine it came from.
    ClearMetadataAndDocStringPass()(program.model)
    program.save(path)


def check_graph(tower: Tower, path: Path) -> float:
    """The largest difference of the graph's embeddings in onnxruntime from the encoder's own.

    Raises: ExportError if it is above `BOUND`, or the graph does not run.
    """
    import onnxruntime

    with torch.no_grad():
        expected = [tower.module(*inputs) for inputs in tower.samples]
    try:
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        found = [
            session.run([OUTPUT], {name: tensor.numpy() for name, tensor in zip(tower.axes, inputs, strict=True)})[0]
            for inputs in tower.samples
        ]
    except Exception as error:  # which onnxruntime raises in classes of its own, one for each status
        raise ExportError(f"onnxruntime cannot run the graph of the {tower.name}: {_first_line(error)}") from error
    gaps = [(own - torch.from_numpy(other)).abs().max() for own, other in zip(expected, found, strict=True)]
    largest = float(torch.stack(gaps).max())
    # Which is false for NaN.
    if not largest <= BOUND:
        raise ExportError(
            f"the graph of the {tower.name} gives other embeddings in onnxruntime: they differ by {largest:.1e}, "
            f"more than {BOUND:.0e}. Export without --onnx"
        )
    return largest


class _Pixels(nn.Module):
    """Images as bytes -> embeddings."""

    def __init__(self, method: Method) -> None:
        super().__init__()
        self.method = method

    def forward(self, pixels: Tensor) -> Tensor:
        """(B, 3, H, W) uint8 -> (B, E)."""
        return self.method.embed_images(normalise(pixels))


def _image_tower(method: Method, random: torch.Generator) -> Tower:
    shape = 3, *method.image_size
    samples: list[tuple[Tensor, ...]] = [
        (torch.randint(256, (batch, *shape), dtype=torch.uint8, generator=random),) for batch in BATCHES
    ]
    return Tower("image_encoder", _Pixels(method).eval(), {"pixels": {0: Dim("batch")}}, samples)


def _text_tower(text: TextTower, random: torch.Generator) -> Tower:
    """Texts of any length, empty ones among them."""
    batches = Dim("batch")
    lengths = {name: Dim(f"{name}_length", max=text.max_tokens) for name in text.texts}
    axes = {f"{name}_{what}": {0: batches, 1: lengths[name]} for name in text.texts for what in ("ids", "mask")}
    samples = []
    for batch, longest in zip(BATCHES, (text.max_tokens, 1, text.max_tokens // 2), strict=True):
        inputs: list[Tensor] = []
        for shorter in range(len(text.texts)):
            length = max(1, longest - shorter)
            tokens = torch.randint(length + 1, (batch, 1), generator=random)
            inputs += (
                torch.randint(text.vocab_size, (batch, length), generator=random),
                torch.arange(length) < tokens,
            )
        samples.append(tuple(inputs))
    return Tower("text_encoder", text, axes, samples)


def _dynamic(tower: Tower) -> tuple[Any, ...]:
    """Of the arguments of the module; a variable number of them is one argument to torch."""
    shapes = tuple(tower.axes.values())
    return (shapes,) if isinstance(tower.module, TextTower) else shapes


def _shapes(tower: Tower) -> dict[str, list[int | str]]:
    """The shapes of the inputs, open sizes by their names."""
    return {
        name: [axes[axis].__name__ if axis in axes else size for axis, size in enumerate(example.shape)]
        for (name, axes), example in zip(tower.axes.items(), tower.samples[0], strict=True)
    }


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's words on packages that it could use, and on its own future."""
    log = logging.getLogger("torch.onnx")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or repr(error)).splitlines()[0]
