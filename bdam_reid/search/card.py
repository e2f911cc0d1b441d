"""The model card of an export: what it is, how it is used, what it was measured to do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bdam_reid.evaluation.tables import CLOTHES_WORDS, ORACLE_WORDS, weights_text

_CARD = """\
# {name}

Finds persons in photographs by a sentence. A model of `bdam_reid`, preset `{preset}`: {checkpoint}.

```python
import bdam_reid
people = bdam_reid.load("{name}")  # this folder, wherever it lies: no network, no data set
people.search(people.embed_images(photos), "a tall woman in a red coat", k=5)
```

Images are seen at {height} x {width} pixels. An embedding has the parts {parts}, which weigh {weights}.
`export.json` says all that there is to know of images, sentences, weights and versions; `sha256sum --check SHA256SUMS`
tells whether the folder is whole.

## Figures

{figures}
"""

_GRAPHS = """
## Without torch

The same encoders as ONNX graphs, opset {opset}: in onnxruntime no entry of an embedding differed by more than
{difference:.1e}. In this folder, with `pip install numpy onnxruntime pillow tokenizers`, for opaque images:

```python
{program}```
"""

_IMAGES = """\
import json
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image, ImageOps
{imports}
export = json.loads(Path("export.json").read_text(encoding="utf-8"))
images = onnxruntime.InferenceSession("image_encoder.onnx")


def embed_images(paths):
    height, width = export["image"]["height"], export["image"]["width"]
    pixels = []
    for path in paths:
        with Image.open(path) as image:
            image.draft("RGB", (2 * max(height, width),) * 2)  # of a large JPEG file no more than it takes
            image = ImageOps.exif_transpose(image).convert("RGB")
            pixels.append(np.asarray(image.resize((width, height), Image.Resampling.BILINEAR)))
    return images.run(None, {{"pixels": np.stack(pixels).transpose(0, 3, 1, 2)}})[0]
"""

_TEXTS = """

text = export["text"]
texts = onnxruntime.InferenceSession("text_encoder.onnx")
tokenizer = Tokenizer.from_file("tokenizer/tokenizer.json")
tokenizer.enable_truncation(text["max_tokens"])
tokenizer.enable_padding()


def tokens(parts):
    kept = [[word for word in part.split() if word.lower().strip(",.;:") not in text["left_out"]] for part in parts]
    encoded = tokenizer.encode_batch([" ".join(words) or part for words, part in zip(kept, parts)])
    mask = np.array([one.attention_mask for one in encoded], dtype=bool)
    mask[[not part for part in parts]] = False  # a sentence without words for this part
    return np.array([one.ids for one in encoded]), mask


def embed_texts(sentences):
    split = [phrases(sentence) for sentence in sentences]
    split = [parts if any(parts) else [sentence] * len(parts) for sentence, parts in zip(sentences, split)]
    inputs = {}
    for name, parts in zip(text["texts"], zip(*split)):
        inputs[f"{name}_ids"], inputs[f"{name}_mask"] = tokens(parts)
    return texts.run(None, inputs)[0]


def scores(gallery, sentence, clothes="same"):
    query = embed_texts([sentence])[0]
    for name, (start, stop) in export["parts"].items():
        query[start:stop] *= export["best"]["weights"][clothes][name]
    return gallery @ query
"""

_TOKENIZER = """from tokenizers import Tokenizer

from splitter import phrases  # a file of this folder
"""

_SYNTHETIC = (
    "The set is **synthetic**: drawn persons, no photographs. The figures say nothing of photographs, and the weights "
    "have seen none."
)


def card(name: str, description: Mapping[str, Any], checkpoint: str, figures: str) -> str:
    """The card in Markdown.

    Args:
        name: of the export.
        description: the content of export.json.
        checkpoint: which one it is, in words.
        figures: what it was measured to do, in Markdown.
    """
    weights = (
        f"{weights_text(of)} in search of {CLOTHES_WORDS[clothes]}"
        for clothes, of in description["best"]["weights"].items()
    )
    text = _CARD.format(
        name=name,
        checkpoint=checkpoint,
        preset=description["preset"],
        height=description["image"]["height"],
        width=description["image"]["width"],
        parts=", ".join(description["parts"]),
        weights="; ".join(weights),
        figures=figures,
    )
    if "onnx" not in description:
        return text
    graphs = description["onnx"]
    return text + _GRAPHS.format(
        opset=graphs["opset"],
        difference=max(graphs["largest_difference"].values()),
        program=_program(description),
    )


def _program(description: Mapping[str, Any]) -> str:
    reads = description["text"] is not None
    return _IMAGES.format(imports=_TOKENIZER if reads else "") + (_TEXTS if reads else "")


def figures_text(
    data: str, validation: Mapping[str, float], table: str, *, synthetic: bool, oracle: bool = False
) -> str:
    """What a run was measured to do, in Markdown.

    Args:
        data: name of its set.
        validation: figures of the checkpoint by name; empty where there was no validation.
        table: of the evaluation; empty where there was none.
        synthetic: whether the set is drawn.
        oracle: whether images came with their true attributes.
    """
    paragraphs = [f"Trained and measured on the set `{data}`."]
    if synthetic:
        paragraphs.append(_SYNTHETIC)
    if validation:
        rates = ", ".join(f"{name} {value:.2f}" for name, value in validation.items())
        paragraphs.append(f"On validation, which chose the checkpoint{ORACLE_WORDS * oracle}: {rates}.")
    paragraphs.append(f"```\n{table}\n```" if table else "It has not been evaluated on a test split.")
    return "\n\n".join(paragraphs)
