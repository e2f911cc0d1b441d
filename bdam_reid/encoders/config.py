"""The configs of encoders; nothing heavy is imported, so that a command line can be read at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from bdam_reid.config import ConfigError, DataConfig, Range, check_multiple

EFFICIENTNET = "efficientnet-lite0"
"""Name of the published image encoder that is no transformer."""

STEM_GROUPS = 8
"""Of channels that the convolutions before a CLIP from scratch normalise together."""

PREPARED = ("tokenizer", "image_encoder", "text_encoder")
"""Folders that a run keeps of its encoders besides their weights, as far as there are any."""


@dataclass(frozen=True)
class EncoderConfig:
    """A transformers encoder: a hub name or local folder, or a small one built from these sizes."""

    pretrained: str = ""
    """Hub name or folder, or, of images, efficientnet-lite0; empty builds the encoder from the sizes below, with random
    weights."""
    width: int = 128
    layers: int = 4
    heads: int = 4
    frozen: bool = False
    projected: bool = False
    """Whether features are in the space that the two encoders of a CLIP or SigLIP share."""

    @property
    def shares_space(self) -> bool:
        """Whether it is of a kind that can be `projected`."""
        return bool(self.pretrained)

    def check(self, name: str) -> None:
        """Raise ConfigError if the values of this, the field `name`, do not fit each other."""
        self.check_projected(name)
        if not self.pretrained:
            check_multiple((f"{name}.width", self.width), (f"{name}.heads", self.heads))

    def check_projected(self, name: str) -> None:
        """Raise ConfigError if this, the field `name`, has no partner to share a space with."""
        if self.projected and not self.shares_space:
            raise ConfigError(
                f"--{name}.projected True is for one of a published pair of encoders: give --{name}.pretrained, such "
                f"as openai/clip-vit-base-patch16, got none; or --{name}.kind clip, from scratch"
            )


@dataclass(frozen=True)
class ImageEncoderConfig(EncoderConfig):
    """A transformer of patches, or convolutions."""

    kind: Literal["transformer", "clip", "convolutions"] = "transformer"
    """clip: that of a CLIP, with convolutions of stride 2 for a patch embedding; convolutions: `layers` of stride 2,
    each twice as wide as the one before, the last `width` wide. Both from scratch only."""
    patch_height: int = 16
    """Patch sizes are the transformer's."""
    patch_width: int = 16
    head_crop: bool = False
    """Convolutions see the whole image at half its size, and the region of the head at its full size by layers of
    their own."""

    @property
    def shares_space(self) -> bool:
        """Whether it is of a kind that can be `projected`."""
        return super().shares_space or self.kind == "clip"

    def check_image(self, name: str, data: DataConfig) -> None:
        """Raise ConfigError if this, the field `name`, is no encoder of the images of `data`."""
        self.check_projected(name)
        if self.kind != "transformer" and (self.pretrained or self.frozen):
            raise ConfigError(
                f"--{name}.kind {self.kind} is trained from scratch: leave --{name}.pretrained empty and "
                f"--{name}.frozen False, got {self.pretrained!r} and {self.frozen}"
            )
        if self.kind == "convolutions":
            if self.width % 2 ** (self.layers - 1):
                raise ConfigError(
                    f"--{name}.width must be a multiple of {2 ** (self.layers - 1)} for {self.layers} layers, each "
                    f"twice as wide as the one before, got {self.width}"
                )
            return
        if self.head_crop:
            raise ConfigError(f"--{name}.head-crop needs --{name}.kind convolutions, got {self.kind}")
        self.check(name)
        if not self.pretrained:
            check_multiple(("data.image-height", data.image_height), (f"{name}.patch-height", self.patch_height))
            check_multiple(("data.image-width", data.image_width), (f"{name}.patch-width", self.patch_width))
        if self.kind == "clip":
            self._check_stem(name)

    def _check_stem(self, name: str) -> None:
        patch = self.patch_height
        if patch != self.patch_width or patch < 2 or patch & (patch - 1):
            raise ConfigError(
                f"--{name}.patch-height and --{name}.patch-width must be one power of 2 for --{name}.kind clip, whose "
                f"convolutions halve the image, got {patch} and {self.patch_width}"
            )
        if self.width % (least := STEM_GROUPS * patch // 2):
            raise ConfigError(
                f"--{name}.width must be a multiple of {least} for --{name}.kind clip in patches of {patch}, as its "
                f"convolutions double {STEM_GROUPS} groups of channels, got {self.width}"
            )


@dataclass(frozen=True)
class TextEncoderConfig(EncoderConfig):
    """A transformer of word pieces."""

    kind: Literal["bert", "clip"] = "bert"
    """Of an encoder from scratch; CLIP's words do not see what follows them."""
    words: str = ""
    """Hub name or folder of a published BERT whose word vectors, frozen, an encoder from scratch reads; empty learns
    vectors of its own."""
    noise: Annotated[float, Range(0)] = 0.0
    """Standard deviation of what training adds to the published vectors, each of which is normalised before."""
    pooling: Literal["mean", "attention", "own"] = "mean"
    """How a text's tokens become its feature; with attention identity and clothing each have a query of their own; own
    is the encoder's global feature, such as the token that ends a text of CLIP."""
    function_words: bool = True
    """Whether articles, prepositions and the like are read."""

    @property
    def shares_space(self) -> bool:
        """Whether it is of a kind that can be `projected`."""
        return super().shares_space or self.kind == "clip"

    def check(self, name: str) -> None:
        """Raise ConfigError if the values of this, the field `name`, do not fit each other."""
        super().check(name)
        if self.kind == "clip" and (self.pretrained or self.words):
            raise ConfigError(
                f"--{name}.kind clip is trained from scratch: leave --{name}.pretrained and --{name}.words empty, got "
                f"{self.pretrained!r} and {self.words!r}"
            )
        if self.words and self.pretrained:
            raise ConfigError(
                f"--{name}.words and --{name}.pretrained exclude each other, a published encoder brings its words: "
                f"choose one of them, got {self.words!r} and {self.pretrained!r}"
            )
        if self.noise and not self.words:
            raise ConfigError(f"--{name}.noise needs --{name}.words, got {self.noise} without")
