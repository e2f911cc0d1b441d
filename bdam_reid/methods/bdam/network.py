"""The network of BDAM: encoders, decoupling, projections into the text space, fusion, matcher."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple, TypeVar

from torch import Tensor, nn

from bdam_reid.config import DataConfig
from bdam_reid.encoders.base import Encoded
from bdam_reid.encoders.image import image_encoder
from bdam_reid.encoders.pooling import AttentionPooling, Grids
from bdam_reid.encoders.text import TextEncoder, masked_mean
from bdam_reid.methods.bdam.batches import Batch
from bdam_reid.methods.bdam.config import BDAMConfig, DecouplingConfig
from bdam_reid.methods.bdam.decoupling import Decoupling
from bdam_reid.methods.bdam.entangled import Entangled
from bdam_reid.methods.bdam.erasure import Erasure
from bdam_reid.methods.bdam.fusion import Fusion
from bdam_reid.methods.bdam.matcher import Matcher
from bdam_reid.methods.bdam.pooling import PositionalDecoupling
from bdam_reid.methods.preparation import IMAGE, TEXT, architecture
from bdam_reid.methods.unit import full_precision, unit
from bdam_reid.processes import gather


class ImageFeatures(NamedTuple):
    """Features of B images; D is the width of their tokens, P that of pooled features, E the text width."""

    identity: Tensor
    """Gated identity feature f_id, (B, P)."""
    clothing: Tensor
    """Gated clothing feature f_clo, (B, P)."""
    pooled_clothing: Tensor
    """Clothing feature before the gate, (B, P)."""
    gate: Tensor | None
    """Gate g, (B, P); None where the config has no gate."""
    patches: Tensor
    """Tokens of the encoder, (B, L, D)."""
    tokens: Tensor | None
    """Tokens of the identity stream, before the gate, (B, L, D); None where the last layer of the decoupling pools."""
    identity_embedding: Tensor
    """Unit vectors to match with texts, (B, E): projection of `identity`, without what is erased."""
    clothing_embedding: Tensor
    """Unit vectors to match with texts, (B, E): projection of `pooled_clothing`, as Eq. 1 has it."""


class TextFeatures(NamedTuple):
    """Features of B pairs of an identity text and a clothing text; E is the text width."""

    identity: Tensor
    """Of the identity text's tokens, pooled, (B, E)."""
    clothing: Tensor
    """Of the clothing text's tokens, pooled, (B, E)."""
    identity_tokens: Tensor
    """(B, L, E)."""
    identity_mask: Tensor
    """(B, L) bool, True = real token."""
    clothing_tokens: Tensor
    """(B, M, E)."""
    clothing_mask: Tensor
    """(B, M) bool, True = real token."""
    identity_embedding: Tensor
    """`identity` as unit vectors."""
    clothing_embedding: Tensor
    """`clothing` as unit vectors."""


Features = TypeVar("Features", ImageFeatures, TextFeatures)


class Network(nn.Module):
    """From pixels and word pieces to disentangled identity and clothing features.

    Source: icme section III, long section 3.

    Args:
        config: of the method.
        data: sizes of images and texts.
        vocab_size: number of word pieces of the tokenizer.
        architectures: folder in which `prepare` kept those of published encoders, whose weights will come from a
            checkpoint; without it they are fetched.
        pad_id: of the tokenizer.
    Raises: ValueError if an encoder cannot be loaded, or sizes do not fit each other.
    """

    def __init__(
        self,
        config: BDAMConfig,
        data: DataConfig,
        vocab_size: int,
        architectures: Path | None = None,
        pad_id: int = 0,
    ) -> None:
        super().__init__()
        image, text = (architecture(architectures, name) for name in (IMAGE, TEXT))
        self.image_encoder = image_encoder(config.image, data.image_size, image)
        self.text_encoder = TextEncoder(config.text, vocab_size, data.max_tokens, text, pad_id)
        image_width, text_width = self.image_encoder.width, self.text_encoder.width
        # Its name in checkpoints since the first version.
        self.bdam = _decoupling(image_width, config.decoupling, self.image_encoder.grids)
        self.identity_projection = nn.Linear(self.bdam.features, text_width)
        self.clothing_projection = nn.Linear(self.bdam.features, text_width)
        erase = config.decoupling.erase
        self.erasure = Erasure(text_width, erase) if erase else None
        attends, self.own_pooling = config.text.pooling == "attention", config.text.pooling == "own"
        self.identity_text_pooling = AttentionPooling(text_width) if attends else None
        self.clothing_text_pooling = AttentionPooling(text_width) if attends else None
        sequence = config.fusion.tokens == "sequence"
        fused_width = image_width if sequence else self.bdam.features
        self.fusion = None
        if config.fusion.kind != "none":
            self.fusion = Fusion(config.fusion, fused_width, text_width, text_width)
        self.matcher = None
        if config.rerank.kind != "none":
            places = sum(rows * columns for rows, columns in self.image_encoder.grids)
            self.matcher = Matcher(config.rerank, image_width, places, text_width)

    def encode_image(self, images: Tensor) -> ImageFeatures:
        """images (B, 3, H, W) in [-1, 1] -> features."""
        patches = self.image_encoder(images)
        parts = self.bdam(patches)
        identity_embedding = unit(self.identity_projection(parts.identity))
        return ImageFeatures(
            identity=parts.identity,
            clothing=parts.clothing,
            pooled_clothing=parts.pooled_clothing,
            gate=parts.gate,
            patches=patches,
            tokens=parts.tokens,
            identity_embedding=identity_embedding if self.erasure is None else self.erasure(identity_embedding),
            clothing_embedding=unit(self.clothing_projection(parts.pooled_clothing)),
        )

    def encode_text(
        self, identity_ids: Tensor, identity_mask: Tensor, clothing_ids: Tensor, clothing_mask: Tensor
    ) -> TextFeatures:
        """Word pieces (B, L), masks (B, L) bool, True = real token, each text with its own L -> features."""
        texts = (identity_ids, identity_mask), (clothing_ids, clothing_mask)
        read_identity, read_clothing = self.text_encoder.encode_each(texts)
        identity = self._pooled(read_identity, identity_mask, self.identity_text_pooling)
        clothing = self._pooled(read_clothing, clothing_mask, self.clothing_text_pooling)
        return TextFeatures(
            identity=identity,
            clothing=clothing,
            identity_tokens=read_identity.tokens,
            identity_mask=identity_mask,
            clothing_tokens=read_clothing.tokens,
            clothing_mask=clothing_mask,
            identity_embedding=unit(identity),
            clothing_embedding=unit(clothing),
        )

    def _pooled(self, text: Encoded, mask: Tensor, attention: AttentionPooling | None) -> Tensor:
        return text.pooled if self.own_pooling else (attention or masked_mean)(text.tokens, mask)

    def fuse(self, image: ImageFeatures, text: TextFeatures) -> tuple[Tensor | None, Tensor | None]:
        """Fused identity features (B, E) of B pairs, and the weights (B, 2) of image and text in them; None and None
        where the config has no fusion.

        The clothing feature is left out, as both drafts have it.
        """
        if self.fusion is None:
            return None, None
        if self.fusion.config.tokens != "sequence" or image.tokens is None:
            return self.fusion(image.identity, text.identity)
        # The mean of the gated tokens is the gated identity feature.
        tokens = image.tokens if image.gate is None else image.gate[:, None] * image.tokens
        return self.fusion(tokens, text.identity_tokens, text.identity_mask)

    def features(self, batch: Batch) -> tuple[ImageFeatures, TextFeatures, Tensor | None, Tensor | None]:
        """A batch -> image features, text features, and what `fuse` makes of them."""
        image = self.encode_image(batch.images)
        text = self.encode_text(batch.identity_ids, batch.identity_mask, batch.clothing_ids, batch.clothing_mask)
        return image, text, *self.fuse(image, text)

    def shared_parameters(self) -> list[nn.Parameter]:
        """Parameters of the last layer that every loss reaches, for GradNorm."""
        return self.bdam.shared_parameters()


def _decoupling(width: int, config: DecouplingConfig, grids: Grids) -> Decoupling | Entangled:
    if config.kind == "none":
        return Entangled(width, config, grids)
    return Decoupling(width, config) if config.pooling == "mean" else PositionalDecoupling(width, config, grids)


def all_in_full_precision(features: Features) -> Features:
    """Features with what is in half precision as float32."""
    values = features._asdict().items()
    return features._replace(**{name: full_precision(x) for name, x in values if x is not None})


def of_all(features: Features) -> Features:
    """Features of the images or texts of all processes; but tokens and what belongs to them only of this one's."""
    own = ("patches", "tokens", "identity_tokens", "identity_mask", "clothing_tokens", "clothing_mask")
    values = features._asdict().items()
    return features._replace(**{name: gather(x) for name, x in values if x is not None and name not in own})
