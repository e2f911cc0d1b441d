"""The presets of BDAM."""

from __future__ import annotations

from dataclasses import replace

from bdam_reid.config import Config, DataConfig, EngineConfig, Presets
from bdam_reid.encoders.config import ImageEncoderConfig, TextEncoderConfig
from bdam_reid.methods.bdam.config import BDAMConfig, DecouplingConfig, FusionConfig, LossConfig
from bdam_reid.methods.optim import OptimConfig


def bdam() -> Config:
    """The best honest recipe with BDAM in it, on published encoders, for real sets and a GPU."""
    small = demo()
    return replace(
        small,
        preset="bdam",
        output="runs/bdam",
        method=replace(
            _recipe(),
            image=ImageEncoderConfig(pretrained="google/vit-base-patch16-224"),
            text=TextEncoderConfig(pretrained="bert-base-uncased", pooling="attention"),
            decoupling=DecouplingConfig(pooling="position", erase=12),
            optim=OptimConfig(lr=3e-5, weight_decay=0.02, decoupled_decay=True, warmup_steps=500, clip_norm=5.0),
        ),
        data=DataConfig(root="data/CUHK-PEDES"),
    )


def bdam_clip() -> Config:
    """`bdam` on both towers of a published CLIP, in the space that they share, for real sets and a GPU.

    A text's feature is the token that ends it: CLIP's words do not see what follows them, so that the mean of them all
    knows less. CLIP's last norm and projection take it into the shared space, where CLIP compared it with images. They
    do so to an image's patches too: CLIP trained them for [CLS] alone, but patches are nearer to the texts of what they
    show after them than before, and 512 wide instead of 768. BDAM's layers read these patches, and end in the space of
    the texts as always. Images are 384 x 128, as usual in the field.
    """
    large = bdam()
    assert isinstance(large.method, BDAMConfig)
    clip = "openai/clip-vit-base-patch16"
    return replace(
        large,
        preset="bdam-clip",
        output="runs/bdam-clip",
        method=replace(
            large.method,
            image=ImageEncoderConfig(pretrained=clip, projected=True),
            text=TextEncoderConfig(pretrained=clip, projected=True, pooling="own"),
            decoupling=DecouplingConfig(pooling="position", heads=8, erase=12),
            optim=replace(large.method.optim, lr=1e-5, new_factor=10.0),
        ),
        data=replace(large.data, image_height=384, image_width=128, max_tokens=77),
    )


def bdam_small() -> Config:
    """`bdam` from scratch in an hour on two CPU cores, for a synthetic set of 10,000 persons."""
    small, method = demo(), _recipe()
    return replace(
        small,
        preset="bdam-small",
        output="runs/bdam-small",
        method=replace(
            method,
            image=replace(method.image, width=128),
            decoupling=replace(method.decoupling, self_layers=2, cross_layers=2),
            optim=replace(method.optim, epochs=20),
        ),
        data=replace(small.data, root="data/synthetic-10000"),
    )


def demo() -> Config:
    """`bdam` in the minutes that a demonstration may take: from scratch on two CPU cores."""
    return Config(
        preset="demo",
        output="runs/demo",
        method=_recipe(),
        data=DataConfig(
            image_height=192,
            image_width=96,
            max_tokens=48,
            vocab_size=2000,
            identities_per_batch=32,
            images_per_identity=2,
            erase=0.0,
        ),
        engine=EngineConfig(mixed_precision="auto", validate_every=2),
    )


def _recipe() -> BDAMConfig:
    """What experiments found to make an identity survive a change of clothes, at the size of the demonstration."""
    return BDAMConfig(
        image=ImageEncoderConfig(kind="convolutions", width=96, layers=3, head_crop=True),
        text=TextEncoderConfig(width=128, layers=1, heads=4, pooling="attention", function_words=False),
        decoupling=DecouplingConfig(
            self_layers=1, cross_layers=1, heads=2, dropout=0.0, pooling="position", width=64, merge=2, erase=12
        ),
        fusion=FusionConfig(kind="none"),
        loss=LossConfig(
            symmetric=True,
            learnt_temperature=True,
            triplet_weight=0.0,
            contrast_weight=0.3,
            decouple_weight=0.1,
            normalized_hsic=True,
            gradnorm_every=0,
        ),
        optim=OptimConfig(lr=2e-3, weight_decay=0.02, decoupled_decay=True, epochs=7, warmup_steps=100, clip_norm=5.0),
        mirror=True,
    )


def demo_icme() -> Config:
    """The conference draft's model and losses at the size of a demonstration, from scratch, to compare with.

    No augmentation and no weight decay: in so few steps they cost accuracy.
    """
    return Config(
        preset="demo-icme",
        output="runs/demo-icme",
        method=BDAMConfig(
            image=ImageEncoderConfig(width=96, layers=2, heads=3, patch_height=8, patch_width=8),
            text=TextEncoderConfig(width=96, layers=2, heads=3),
            decoupling=DecouplingConfig(self_layers=1, cross_layers=1, heads=3),
            fusion=FusionConfig(width=64),
            loss=LossConfig(query="both"),
            optim=OptimConfig(lr=8e-4, weight_decay=0.0, epochs=18, warmup_steps=50),
        ),
        data=DataConfig(
            image_height=96,
            image_width=48,
            max_tokens=48,
            vocab_size=1000,
            identities_per_batch=32,
            images_per_identity=2,
            augment=False,
        ),
        engine=EngineConfig(validate_every=3),
    )


def paper_icme() -> Config:
    """The conference draft: fused query, clothing alignment, alpha 1.5 (icme section IV-A).

    The query is "both", as the fused one alone leaves the image embedding untrained that ranking rests on.
    """
    return _paper("paper-icme", LossConfig(query="both", clothing="alignment"))


def paper_long() -> Config:
    """The longer draft: identity query, adversarial clothing loss, gate regularisation (long section 4.2)."""
    return _paper("paper-long", LossConfig(query="identity", clothing="adversarial"))


def _paper(name: str, loss: LossConfig) -> Config:
    return Config(
        preset=name,
        output=f"runs/{name}",
        method=BDAMConfig(
            image=ImageEncoderConfig(pretrained="google/vit-base-patch16-224"),
            text=TextEncoderConfig(pretrained="bert-base-uncased"),
            loss=loss,
        ),
        data=DataConfig(root="data/CUHK-PEDES"),
    )


PRESETS: Presets = {
    "demo": demo,
    "bdam-small": bdam_small,
    "bdam": bdam,
    "bdam-clip": bdam_clip,
    "demo-icme": demo_icme,
    "paper-icme": paper_icme,
    "paper-long": paper_long,
}
