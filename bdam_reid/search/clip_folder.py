"""Writes the two encoders of a run as a CLIP in the form of the Hugging Face hub, for other runs to begin with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import CLIPConfig, CLIPModel, CLIPVisionModelWithProjection, PreTrainedTokenizerBase
from transformers.image_utils import PILImageResampling

from bdam_reid.config import ConfigError, Presets
from bdam_reid.data.tokens import load_tokenizer
from bdam_reid.encoders.base import PREPROCESSOR
from bdam_reid.encoders.image import ImageEncoder
from bdam_reid.encoders.stem_clip import StemCLIPConfig, StemCLIPModel, StemCLIPVisionModelWithProjection
from bdam_reid.engine.checkpoint import WEIGHTS, write_json
from bdam_reid.engine.exported import is_export, new_folder
from bdam_reid.engine.run import open_best
from bdam_reid.methods.dual_encoder.method import DualEncoder
from bdam_reid.methods.method import Method
from bdam_reid.methods.preparation import TOKENIZER


def export_clip(run: Path, out: Path, presets: Presets) -> str:
    """Write the encoders of a run's best checkpoint, with tokenizer and all, and say how they are used.

    Args:
        run: folder that training wrote, of a dual encoder on a CLIP.
        out: a new folder, which is written whole or not at all.
        presets: where the run's preset is looked up.
    Raises: CheckpointError, ConfigError.
    """
    if is_export(run):
        raise ConfigError(f"--hub takes the folder of a run, got {run}, an export: give the run that it came from")
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise ConfigError(f"expected a new folder for the encoders, got {out}, which is in use: give another one")
    opened = open_best(run, presets, "cpu")
    method, tokenizer = opened.method, load_tokenizer(run / TOKENIZER)
    clip = clip_of(method, tokenizer)
    assert isinstance(method, DualEncoder) and isinstance(method.image_encoder, ImageEncoder)
    tokenizer.model_max_length = method.text_encoder.longest
    with new_folder(out) as folder:
        clip.save_pretrained(folder)
        (folder / WEIGHTS).chmod(0o644)
        tokenizer.save_pretrained(folder)
        write_json(folder / PREPROCESSOR, _processor(method.image_encoder, method.image_size))
    return f"{out}: begin with it by --method.image.pretrained {out} --method.text.pretrained {out}"


def clip_of(method: Method, tokenizer: PreTrainedTokenizerBase) -> CLIPModel:
    """The encoders of a dual encoder and its temperature as one model of transformers, or, with convolutions before its
    transformer, of ours.

    Args:
        method: whose encoders are a pair.
        tokenizer: of its texts. One without words for beginning and end has [CLS] and [SEP] made to.
    Raises: ConfigError for a method that is not of this kind.
    """
    if not (isinstance(method, DualEncoder) and method.config.pair) or not isinstance(
        image := method.image_encoder.model, CLIPVisionModelWithProjection
    ):
        raise ConfigError(
            "--hub takes a run of a dual encoder on both encoders of a CLIP, projected and with pooling own, such as "
            f"those of presets small-clip and clip-itc, got one of {type(method).__name__}, which is no such pair"
        )
    text: Any = method.text_encoder.model
    if tokenizer.bos_token is None or tokenizer.eos_token is None:
        tokenizer.bos_token, tokenizer.eos_token = tokenizer.cls_token, tokenizer.sep_token
    words = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    stem = isinstance(image, StemCLIPVisionModelWithProjection)
    config = (StemCLIPConfig if stem else CLIPConfig)(
        vision_config=image.config.to_dict(),
        text_config=text.config.to_dict() | words,
        projection_dim=image.config.projection_dim,
    )
    clip = (StemCLIPModel if stem else CLIPModel)(config)
    scale = -torch.as_tensor(method.temperatures[method.config.loss.kind]).detach().log()
    clip.load_state_dict({**image.state_dict(), **text.state_dict(), "logit_scale": scale})
    return clip


def _processor(encoder: ImageEncoder, size: tuple[int, int]) -> dict[str, Any]:
    """What transformers is told of images, (height, width) in pixels, so that the encoder sees them as it did here."""
    return {
        "image_processor_type": "CLIPImageProcessor",
        "do_convert_rgb": True,
        "do_center_crop": False,
        "size": {"height": size[0], "width": size[1]},
        "resample": int(PILImageResampling.BILINEAR),
        "image_mean": encoder.mean,
        "image_std": encoder.std,
    }
