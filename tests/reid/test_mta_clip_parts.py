"""The parts of MTA-CLIP, each against its formula written out."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import transformers
from naive import close, linear, norm, random
from published import write_clip
from torch import Tensor, nn

from bdam_reid.data.records import Record
from bdam_reid.encoders.config import TextEncoderConfig
from bdam_reid.encoders.text import TextEncoder
from bdam_reid.losses.hard_triplet import hard_triplet_loss
from bdam_reid.methods.frozen import frozen_report
from bdam_reid.methods.mta_clip.adapter import EPSILON, SemanticGrouping
from bdam_reid.methods.mta_clip.batches import RowBatches
from bdam_reid.methods.mta_clip.config import WHOLE, LossConfig, TowerConfig
from bdam_reid.methods.mta_clip.heads import Head
from bdam_reid.methods.mta_clip.losses import (
    contrastive_loss,
    identity_loss,
    image_to_text_loss,
    triplet_loss,
    weighted,
)
from bdam_reid.methods.mta_clip.prompts import Prompts, read_embeddings
from bdam_reid.methods.mta_clip.tower import UNKNOWN, Features, ImageTower
from bdam_reid.methods.schedules import warm_up_and_step

IMAGE = (32, 16)
PATCHES = 8


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clip(tmp_path_factory.mktemp("clip") / "clip")


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


@torch.no_grad()
def naive_grouping(adapter: SemanticGrouping, tokens: Tensor) -> Tensor:
    """One image's patch tokens (N, C) -> the adapted ones, a number at a time where there is a choice."""
    patches, channels = tokens.shape
    size = channels // adapter.groups
    local = torch.zeros_like(tokens)
    for group in range(adapter.groups):
        own = tokens[:, group * size : (group + 1) * size]
        descriptor = sum(own) / patches
        alike = [sum(float(a) * float(b) for a, b in zip(descriptor, patch, strict=True)) for patch in own]
        mean = sum(alike) / patches
        deviation = math.sqrt(sum((value - mean) ** 2 for value in alike) / patches + EPSILON)
        weighted = torch.stack(
            [
                patch * sigmoid(float(adapter.gamma[group]) * (value - mean) / deviation + float(adapter.beta[group]))
                for patch, value in zip(own, alike, strict=True)
            ]
        )
        centred = weighted - weighted.mean()
        local[:, group * size : (group + 1) * size] = centred / (centred.square().mean() + EPSILON).sqrt()
    local = local * adapter.norm.weight + adapter.norm.bias
    squeeze, _, expand, _ = adapter.excite
    hidden = linear(squeeze, sum(tokens) / patches).clamp(min=0)
    kept = [sigmoid(float(value)) for value in linear(expand, hidden)]
    excited = tokens * torch.tensor(kept, dtype=tokens.dtype)
    one, two = (math.exp(float(weight)) for weight in adapter.mixture)
    return tokens + adapter.scale * (one / (one + two) * local + two / (one + two) * excited)


@pytest.mark.parametrize("groups", [1, 2, 8])
@torch.no_grad()
def test_the_adapter_is_its_formula(groups: int) -> None:
    torch.manual_seed(0)
    adapter = SemanticGrouping(16, groups).double()
    for parameter in adapter.parameters():
        nn.init.normal_(parameter)
    tokens = random(3, 10, 16)
    grouped = adapter.grouped(tokens)
    for image, adapted in zip(tokens, grouped.tokens, strict=True):
        close(adapted, naive_grouping(adapter, image))
    assert grouped.maps.shape == (3, groups, 10) and grouped.channels.shape == (3, 16)
    for kept in (grouped.maps, grouped.channels):
        assert kept.min() > 0 and kept.max() < 1
    assert torch.equal(adapter(tokens), grouped.tokens)


def test_an_adapter_begins_with_next_to_nothing_and_learns_all_of_it() -> None:
    torch.manual_seed(0)
    adapter, tokens = SemanticGrouping(16, 4), torch.randn(2, 10, 16)
    assert 0 < (adapter(tokens) - tokens).abs().max() < 1e-3
    adapter(tokens).square().sum().backward()
    assert all(parameter.grad.count_nonzero() for parameter in adapter.parameters())


def test_groups_that_do_not_divide_the_width_are_refused() -> None:
    with pytest.raises(ValueError, match="must divide the width 16 of the tokens, got 3"):
        SemanticGrouping(16, 3)


def test_embeddings_are_read_as_word_pieces_are(clip: Path) -> None:
    """Without padding, and with as much as there can be."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(clip)
    config = TextEncoderConfig(pretrained=str(clip), projected=True, pooling="own")
    tower = TextEncoder(config, len(tokenizer), 77).eval().model
    assert isinstance(tower, transformers.CLIPTextModelWithProjection)
    texts = ["a photo of a man in a red coat", "the"]
    with torch.no_grad():
        for text in texts:
            ids = tokenizer(text, return_tensors="pt")["input_ids"]
            padded = tokenizer(text, padding="max_length", max_length=77, return_tensors="pt")
            got = read_embeddings(tower, tower.text_model.embeddings.token_embedding(ids))
            close(got, tower(**padded).text_embeds)
            close(got, tower(input_ids=padded["input_ids"]).text_embeds)


def test_a_prompt_is_words_in_order() -> None:
    torch.manual_seed(0)
    domains = [0, 1, 1, 0]
    prompts = Prompts(torch.randn(5, 64), torch.randn(3, 64), domains, 4, 3, 2)
    persons = torch.tensor([2, 0, 2])
    read = prompts(persons)
    assert read.shape == (3, len(prompts), 64) == (3, 17, 64)
    for person, tokens in zip(persons.tolist(), read, strict=True):
        words = [prompts.before, prompts.shared, prompts.domain[domains[person]], prompts.person[person], prompts.after]
        assert torch.equal(tokens, torch.cat(words))
    learnt = torch.cat([words.detach().flatten() for words in prompts.parameters()])
    assert float(learnt.std()) == pytest.approx(0.02, rel=0.1) and abs(learnt.mean()) < 0.005
    assert {name for name, _ in prompts.named_parameters()} == {"shared", "domain", "person"}
    for domain in (0, 1):
        products = [float(s @ d) ** 2 for s in prompts.shared.detach() for d in prompts.domain[domain].detach()]
        assert float(prompts.overlap(domain).detach()) == pytest.approx(sum(products), rel=1e-4)


def test_words_that_there_are_none_of_are_left_out() -> None:
    prompts = Prompts(torch.randn(5, 8), torch.randn(3, 8), [0, 0], 0, 0, 4)
    assert prompts(torch.tensor([1])).shape == (1, 12, 8) and prompts.overlap(0) == 0


def distances(features: Tensor, a: int, others: list[int]) -> list[float]:
    return [math.dist(features[a].tolist(), features[b].tolist()) for b in others]


def test_the_hardest_triplets() -> None:
    features, identities = random(9, 4), torch.tensor([0, 0, 0, 1, 1, 2, 3, 3, 3])
    terms = []
    for a in range(9):
        same = [b for b in range(9) if b != a and identities[b] == identities[a]]
        other = [b for b in range(9) if identities[b] != identities[a]]
        if same:
            terms.append(max(0, max(distances(features, a, same)) - min(distances(features, a, other)) + 0.3))
    close(hard_triplet_loss(features, identities, 0.3), sum(terms) / 8)


@pytest.mark.parametrize("identities", [[0, 1, 2], [0, 0, 0]])
def test_a_batch_without_triplets_has_no_loss(identities: list[int]) -> None:
    features = random(3, 4).requires_grad_()
    loss = hard_triplet_loss(features, torch.tensor(identities), 0.3)
    loss.backward()
    assert loss == 0 and features.grad is not None and features.grad.count_nonzero() == 0


def test_images_that_are_alike_have_a_gradient() -> None:
    features = torch.ones(4, 3, dtype=torch.float64, requires_grad=True)
    loss = hard_triplet_loss(features, torch.tensor([0, 0, 1, 1]), 0.3)
    loss.backward()
    assert loss == 0.3 and features.grad is not None and features.grad.isfinite().all()


def unit(x: Tensor) -> Tensor:
    return x / x.square().sum(-1, keepdim=True).sqrt()


def test_the_contrastive_loss_has_all_images_of_a_person_as_positives() -> None:
    images, texts, persons = random(6, 5), random(6, 5, seed=1), [4, 4, 7, 1, 1, 1]
    scores = (unit(images) @ unit(texts).T / 0.1).exp()
    both = 0.0
    for one_way in (scores, scores.T):
        for i in range(6):
            right = [j for j in range(6) if persons[i] == persons[j]]
            both -= sum(math.log(one_way[i, j] / one_way[i].sum()) for j in right) / len(right) / 6
    close(contrastive_loss(images, texts, torch.tensor(persons), 0.1), both / 2)


def smoothed(scores: Tensor, labels: list[int], smoothing: float) -> float:
    """Cross-entropy with 1 - s of the probability on the label and s on all classes evenly."""
    total, classes = 0.0, scores.shape[1]
    for row, label in zip(scores, labels, strict=True):
        logs = [float(value) - math.log(float(row.exp().sum())) for value in row]
        wanted = [smoothing / classes + (1 - smoothing) * (number == label) for number in range(classes)]
        total -= sum(p * q for p, q in zip(wanted, logs, strict=True))
    return total / len(labels)


def test_the_losses_of_images() -> None:
    labels, persons = [0, 0, 2, 2], 3
    features = Features(random(4, 6), random(4, 5, seed=1))
    scores, texts = (random(4, persons, seed=2), random(4, persons, seed=3)), random(persons, 5, seed=4)
    wanted = torch.tensor(labels)
    parts = {
        "id": identity_loss(scores, wanted, 0.1),
        "triplet": triplet_loss(features, wanted, 0.3),
        "i2t": image_to_text_loss(features.projected, texts, wanted, 0.05, 0.1),
    }
    expected = {
        "id": sum(smoothed(each, labels, 0.1) for each in scores),
        "triplet": sum(float(hard_triplet_loss(feature, wanted, 0.3)) for feature in features),
        "i2t": smoothed(unit(features.projected) @ unit(texts).T / 0.05, labels, 0.1),
    }
    for name, loss in parts.items():
        close(loss, expected[name])
    total = weighted(LossConfig(id_weight=0.5, triplet_weight=2.0, i2t_weight=3.0), parts)
    close(total, 0.5 * expected["id"] + 2 * expected["triplet"] + 3 * expected["i2t"])


def test_a_head_normalises_batches_without_a_shift() -> None:
    torch.manual_seed(0)
    head, features = Head((6, 5), 3).double(), Features(3 + 2 * random(8, 6), random(8, 5, seed=1))
    for scores, feature, classifier in zip(head(features), features, head.classifiers, strict=True):
        centred = feature - feature.mean(dim=0)
        normal = centred / (centred.square().mean(dim=0) + 1e-5).sqrt()
        close(scores, normal @ classifier.weight.T)
        assert classifier.bias is None and classifier.weight.std() < 0.002


def test_the_rate_falls_after_30_and_50_of_60_epochs() -> None:
    rates = [warm_up_and_step(epoch, 60, rate=1.0, warmup_steps=10) for epoch in range(60)]
    assert rates[:10] == pytest.approx([0.1 + 0.09 * epoch for epoch in range(10)])
    assert rates[10:30] == [1] * 20
    assert rates[30:50] == pytest.approx([0.1] * 20) and rates[50:] == pytest.approx([0.01] * 10)
    assert warm_up_and_step(0, 60, rate=1.0, warmup_steps=0) == 1


def tower_of(clip: Path, config: TowerConfig, cameras: int = 0) -> ImageTower:
    torch.manual_seed(0)
    return ImageTower(str(clip), config, IMAGE, cameras).eval()


def class_and_patches(tower: ImageTower, images: Tensor) -> Tensor:
    """The tokens before the last norm, as transformers computes them."""
    pixels = images * tower.encoder.scale + tower.encoder.shift
    return tower.model.vision_model(pixel_values=pixels, interpolate_pos_encoding=True).last_hidden_state


@pytest.mark.parametrize("kind", ["none", "identity", "sga"])
@torch.no_grad()
def test_the_feature_is_the_class_token_and_the_mean_of_the_adapted_patches(clip: Path, kind: str) -> None:
    tower, images = tower_of(clip, TowerConfig(adapter=kind, groups=4)), torch.rand(2, 3, *IMAGE)
    assert (tower.adapter is None) == (kind != "sga") and tower.grid == (4, 2)
    tokens = class_and_patches(tower, images)
    patches = tokens[:, 1:]
    if tower.adapter is not None:
        nn.init.normal_(tower.adapter.scale)
        patches = torch.stack([naive_grouping(tower.adapter, image) for image in patches])
    feature = tokens[:, 0] if kind == "none" else tokens[:, 0] + patches.mean(dim=1)
    own, projected = tower(images)
    close(own, norm(tower.model.vision_model.post_layernorm, feature))
    close(projected, own @ tower.model.visual_projection.weight.T)


@torch.no_grad()
def test_the_prompts_are_trained_on_what_the_clip_itself_says(clip: Path) -> None:
    tower, images = tower_of(clip, TowerConfig(groups=4)), torch.rand(2, 3, *IMAGE)
    model = transformers.CLIPModel.from_pretrained(clip).eval()
    pixels = images * tower.encoder.scale + tower.encoder.shift
    expected = model.get_image_features(pixels, interpolate_pos_encoding=True).pooler_output
    close(tower.published(images).projected, expected)


@torch.no_grad()
def test_cameras_change_the_class_token_alone(clip: Path) -> None:
    tower, images = tower_of(clip, TowerConfig(adapter="none"), cameras=3), torch.rand(4, 3, *IMAGE)
    seen: list[Tensor] = []
    tower.model.vision_model.pre_layrnorm.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    tower(images, torch.tensor([2, 0, UNKNOWN, 2]))
    tower(images)
    assert tower.cameras is not None
    told, untold, mean = *seen, tower.cameras.mean(dim=0)
    added = torch.stack([tower.cameras[2], tower.cameras[0], mean, tower.cameras[2]])
    close(told[:, 0] - untold[:, 0], added - mean)
    assert torch.equal(told[:, 1:], untold[:, 1:])
    assert torch.equal(tower.published(images).own, tower_of(clip, TowerConfig(adapter="none"))(images).own)


@torch.no_grad()
def test_patches_overlap(clip: Path) -> None:
    tower, images = tower_of(clip, TowerConfig(adapter="none", stride=6)), torch.rand(1, 3, *IMAGE)
    assert tower.grid == (5, 2)
    embeddings, seen = tower.model.vision_model.embeddings, []
    tower.model.vision_model.pre_layrnorm.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    tower(images)
    pixels = (images * tower.encoder.scale + tower.encoder.shift)[0]
    weight, table = embeddings.patch_embedding.weight, embeddings.position_embedding.weight
    square = table[1:].T.reshape(1, -1, 4, 4)
    places = nn.functional.interpolate(square, size=(5, 2), mode="bicubic")[0]
    for row in range(5):
        for column in range(2):
            patch = pixels[:, 6 * row : 6 * row + PATCHES, 6 * column : 6 * column + PATCHES]
            token = (weight * patch).sum(dim=(1, 2, 3)) + places[:, row, column]
            close(seen[0][0, 1 + 2 * row + column], token)
    close(seen[0][0, 0], embeddings.class_embedding + table[0])


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (TowerConfig(stride=8), "must be below 8, the size of a patch, got 8"),
        (TowerConfig(groups=3), "must divide the width 16 of the tokens, got 3"),
    ],
)
def test_a_tower_that_cannot_be_is_refused(clip: Path, config: TowerConfig, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        tower_of(clip, config)


def test_the_last_blocks(clip: Path) -> None:
    tower = tower_of(clip, TowerConfig(groups=4))
    names = {id(parameter): name for name, parameter in tower.model.named_parameters()}
    always = {"vision_model.post_layernorm.weight", "vision_model.post_layernorm.bias", "visual_projection.weight"}
    for blocks in (0, 1, 2):
        layers = {name for name in names.values() for n in range(2 - blocks, 2) if f".layers.{n}." in name}
        assert {names[id(parameter)] for parameter in tower.last(blocks)} == always | layers
    assert {names[id(parameter)] for parameter in tower.last(WHOLE)} == set(names.values())
    assert tower.blocks == 2


def records(*domains: tuple[int, int]) -> list[Record]:
    """Of each domain so many persons with so many images."""
    people = [(domain, person, images) for domain, (persons, images) in enumerate(domains) for person in range(persons)]
    return [
        Record(Path(f"{d}/{p}/{n}.jpg"), f"{d}/{p}/{n}", 100 * d + p, "train", domain=d)
        for d, p, images in people
        for n in range(images)
    ]


def domains_of(batches: Iterator[list[int]], of: list[Record]) -> list[int]:
    found = [{of[index].domain for index in batch} for batch in batches]
    assert all(len(domains) == 1 for domains in found)
    return [domains.pop() for domains in found]


def test_prompts_see_every_image_once() -> None:
    of = records((3, 4), (2, 9))
    batches = RowBatches(of, 6, seed=0)
    rows = [batch.numbers.tolist() for batch in batches.batches(4)]
    assert batches.size == 6 and len(batches) == len(rows) == 2 + 3
    assert sorted(number for row in rows for number in row) == list(range(30))
    assert sorted(domains_of(iter(rows), of)) == [0, 0, 1, 1, 1]
    assert [batch.numbers.tolist() for batch in batches.batches(4, 2)] == rows[2:]
    assert [batch.numbers.tolist() for batch in batches.batches(5)] != rows
    assert batches.images(4, 1) == [of[number].path for number in rows[1]]
    assert RowBatches(of, 64, seed=0).size == 12


def test_a_report_of_what_is_frozen() -> None:
    module = nn.ModuleDict(
        {
            "layers": nn.ModuleList(nn.Linear(2, 2) for _ in range(4)),
            "norm": nn.LayerNorm(2),
            "empty": nn.Identity(),
        }
    )
    module.requires_grad_(False)
    assert frozen_report(module) == "trains 0 parameters; frozen 28 parameters: layers, norm"
    module["layers"][3].requires_grad_(True)
    module["norm"].weight.requires_grad_(True)
    report = "trains 8 parameters: layers.3, norm.weight; frozen 20 parameters: layers.0-2, norm.bias"
    assert frozen_report(module) == report
