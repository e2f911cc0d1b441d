"""The config of an encoder; nothing heavy is imported, so that a command line can be read at once."""

from __future__ import annotations

from dataclasses import dataclass

from bdam_reid.config import DataConfig, check_multiple


@dataclass(frozen=True)
class EncoderConfig:
    """A transformers encoder: a hub name or local folder, or a small one built from these sizes."""

    pretrained: str = ""
    """Hub name or folder; empty builds the encoder from the sizes below, with random weights."""
    width: int = 128
    layers: int = 4
    heads: int = 4
    patch_height: int = 16
    """Patch sizes are read for images only."""
    patch_width: int = 16
    frozen: bool = False

    def check_image(self, name: str, data: DataConfig) -> None:
        """Raise ConfigError if this, the field `name`, is no encoder of the images of `data`."""
        self.check_text(name)
        if not self.pretrained:
            check_multiple(("data.image-height", data.image_height), (f"{name}.patch-height", self.patch_height))
            check_multiple(("data.image-width", data.image_width), (f"{name}.patch-width", self.patch_width))

    def check_text(self, name: str) -> None:
        """Raise ConfigError if this, the field `name`, is no encoder of texts."""
        if not self.pretrained:
            check_multiple((f"{name}.width", self.width), (f"{name}.heads", self.heads))
