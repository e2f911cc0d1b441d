"""Texts by a model in this process: a LLaVA with random weights, which answers gibberish, or what it is given."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from caption_server import GOOD
from data_files import entries, write_set
from PIL import Image
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor
from transformers import (
    AutoProcessor,
    CLIPImageProcessor,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

from bdam_reid.captions import __main__ as command
from bdam_reid.captions.store import FILE as STORE
from bdam_reid.captions.texts import FILE as TEXTS
from bdam_reid.captions.validation import read_answer

IMAGES = 10
"""Training images of the set."""
TEMPLATE = (
    "{% for message in messages %}<s>{{ message['role'] }}: {% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>{% else %}{{ part['text'] }}{% endif %}{% endfor %}{{ '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}<s>assistant: {% endif %}"
)
SIZE = {"height": 16, "width": 16}
PATCHES = 4


def tokenizer() -> PreTrainedTokenizerFast:
    """A token a letter."""
    special = ["<pad>", "<s>", "</s>", "<unk>", "<image>"]
    letters = [chr(code) for code in range(32, 127)] + ["\n"]
    model = Tokenizer(models.WordLevel({token: n for n, token in enumerate(special + letters)}, unk_token="<unk>"))
    model.pre_tokenizer = pre_tokenizers.Split(Regex("[\\s\\S]"), "isolated")
    model.decoder = decoders.Fuse()
    names = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_object=model, extra_special_tokens={"image_token": "<image>"}, **names)


@pytest.fixture(scope="module")
def llava(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model's folder. Tests that change it take a copy."""
    folder, words = tmp_path_factory.mktemp("models") / "llava", tokenizer()
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision = {"model_type": "clip_vision_model", **sizes, "image_size": 16, "patch_size": 8}
    text = {"model_type": "llama", **sizes, "num_key_value_heads": 2, "vocab_size": len(words), "pad_token_id": 0}
    torch.manual_seed(0)
    config = LlavaConfig(
        vision_config=vision,
        text_config={**text, "bos_token_id": 1, "eos_token_id": 2, "max_position_embeddings": 8192},
        image_token_index=4,
        vision_feature_layer=-1,
    )
    LlavaForConditionalGeneration(config).save_pretrained(folder)
    LlavaProcessor(
        image_processor=CLIPImageProcessor(size={"shortest_edge": 16}, crop_size=SIZE),
        tokenizer=words,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=TEMPLATE,
    ).save_pretrained(folder)
    return folder


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A set of ten training images, no two alike."""
    root = write_set(tmp_path / "set", entries())
    for number, path in enumerate(sorted((root / "imgs").rglob("*.jpg"))):
        Image.new("RGB", (24, 48), (12 * number, 100, 255 - 12 * number)).save(path)
    return root


class Asked:
    """In place of the model's own `generate`: keeps what is asked, and answers as `answer` says."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, answer: Callable[[str], str]) -> None:
        self.prompts: list[str] = []
        """Without padding and image tokens."""
        self.batches: list[int] = []
        self.options: dict[str, object] = {}
        self.images: set[bytes] = set()
        self.answer = answer
        words = tokenizer()

        def generate(
            _: object, input_ids: Tensor, pixel_values: Tensor, attention_mask: Tensor, **options: object
        ) -> Tensor:
            assert pixel_values.shape == (len(input_ids), 3, 16, 16) and (input_ids == 4).sum() == PATCHES * len(
                input_ids
            )
            assert (input_ids[:, -1] != 0).all() and torch.equal(input_ids != 0, attention_mask == 1)
            prompts = [text.replace("<pad>", "").replace("<image>", "") for text in words.batch_decode(input_ids)]
            self.prompts += prompts
            self.batches.append(len(prompts))
            self.options = options
            self.images |= {pixels.numpy().tobytes() for pixels in pixel_values}
            answers = words([f"{self.answer(prompt)}</s>" for prompt in prompts], padding=True, return_tensors="pt")
            return torch.cat((input_ids, answers["input_ids"]), dim=1)

        monkeypatch.setattr(LlavaForConditionalGeneration, "generate", generate)


def part_of(prompt: str) -> str:
    return "identity" if "Describe the person's identity" in prompt else "clothing"


def good(prompt: str) -> str:
    return json.dumps({"description": GOOD[part_of(prompt)][0]})


def write(root: Path, model: Path | str, *more: str, missing: bool = False) -> None:
    assert command.main(["write", str(root), "--local", str(model), "--workers", "4", *more]) == int(missing)


def failure(root: Path, capsys: pytest.CaptureFixture[str], *more: str) -> str:
    with pytest.raises(SystemExit) as stop:
        command.main(["write", str(root), *more])
    assert stop.value.code == 1
    said = capsys.readouterr().err
    assert "Traceback" not in said
    return said.strip().splitlines()[-1]


def answers(root: Path) -> list[dict]:
    store = root / STORE
    lines = [json.loads(line) for line in store.read_text().splitlines()] if store.exists() else []
    return [line for line in lines if "key" in line]


def test_gibberish_is_asked_for_once_refused_and_counted(
    root: Path, llava: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for _ in range(2):
        write(root, llava, "--attempts", "1", "--max-tokens", "12", missing=True)
        said = capsys.readouterr().out
        assert "20 of 20 texts have no answer that can be used" in said and "both texts of 0 images" in said
        found = answers(root)
        assert Counter((one["key"], one["part"]) for one in found).total() == 2 * IMAGES == len(found)
        assert len({(one["key"], one["part"]) for one in found}) == 2 * IMAGES
        assert all(one["faults"] and one["model"] == str(llava) for one in found)
        assert all(0 < one["output_tokens"] <= 12 and one["input_tokens"] > 300 for one in found)
    assert json.loads((root / TEXTS).read_text()) == {}
    write(root, llava, "--attempts", "2", "--max-tokens", "12", "--limit", "1", missing=True)
    assert "2 answers had faults" in capsys.readouterr().out and len(answers(root)) == 2 * IMAGES + 2


def test_good_answers_are_stored(
    root: Path, llava: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = Asked(monkeypatch, good)
    write(root, llava)
    texts = json.loads((root / TEXTS).read_text())
    expected = {part: GOOD[part][0] for part in GOOD}
    assert len(texts) == IMAGES and all({**entry, "style": ""} == {**expected, "style": ""} for entry in texts.values())
    assert asked.batches == [4] * 5 and len(asked.images) == IMAGES
    assert asked.options == {"max_new_tokens": 300, "pad_token_id": 0, "do_sample": True, "temperature": 0.7}
    assert all(prompt.startswith("<s>user: You describe one person") for prompt in asked.prompts)
    assert all(prompt.endswith("\n<s>assistant: ") and prompt.count("<s>") == 2 for prompt in asked.prompts)
    lengths = {part: len(json.dumps({"description": text})) + 1 for part, text in expected.items()}
    assert all(one["output_tokens"] == lengths[one["part"]] for one in answers(root))
    used = sum(len(prompt.replace("<s>", "s")) + PATCHES for prompt in asked.prompts)
    assert f"used {used:,} tokens in and {IMAGES * sum(lengths.values()):,} out, as the model counts; 0 ans" in (
        capsys.readouterr().out
    )
    write(root, llava)
    assert len(asked.prompts) == 2 * IMAGES


def test_a_repeated_attempt_says_what_was_wrong(root: Path, llava: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = Asked(monkeypatch, lambda prompt: good(prompt) if "cannot be used" in prompt else "Sure!")
    write(root, llava, "--temperature", "0")
    assert len(asked.prompts) == 4 * IMAGES and len(json.loads((root / TEXTS).read_text())) == IMAGES
    again = next(prompt for prompt in asked.prompts if "cannot be used" in prompt)
    assert "<s>assistant: Sure!\n<s>user: This description cannot be used: it is not a JSON object" in again
    assert asked.options == {"max_new_tokens": 300, "pad_token_id": 0, "do_sample": False}


def test_a_model_without_a_chat_template_is_asked_in_plain_text(
    root: Path, llava: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = changed(llava, tmp_path)
    (folder / "chat_template.jinja").unlink()
    assert AutoProcessor.from_pretrained(folder).chat_template is None
    asked = Asked(monkeypatch, good)
    write(root, folder, "--limit", "1")
    assert len(json.loads((root / TEXTS).read_text())) == 1
    assert all(prompt.startswith("\n\nYou describe one person") and "user:" not in prompt for prompt in asked.prompts)


def test_too_little_memory_ends_the_run_and_what_came_is_kept(
    root: Path, llava: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def answer(prompt: str) -> str:
        if len(asked.batches) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return good(prompt)

    asked = Asked(monkeypatch, answer)
    last = failure(root, capsys, "--local", str(llava), "--workers", "5")
    assert "10 calls in a row got no answer" in last and "too little memory for 5 at a time: lower --workers" in last
    assert len(answers(root)) == 10
    asked.answer = good
    write(root, llava)
    assert len(answers(root)) == 2 * IMAGES and len(json.loads((root / TEXTS).read_text())) == IMAGES


def test_a_model_that_cannot_be_asked_ends_the_run_at_once(
    root: Path, llava: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = changed(llava, tmp_path)
    (folder / "chat_template.jinja").write_text("{{ raise_exception('no images, please') }}")
    last = failure(root, capsys, "--local", str(folder))
    assert "cannot be asked to describe an image (TemplateError: no images, please)" in last and not answers(root)


def test_the_cost_is_said_in_images_and_tokens(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without loading the model, which need not be there."""
    write(root, "not-there", "--dry-run", "--limit", "3")
    said = capsys.readouterr().out.splitlines()[-1]
    assert said.startswith("6 of 6 texts to write: 6 calls, at most 18 with all attempts, of 3 images: about ")
    assert "480 out" in said and "$" not in said and "--prices" not in said


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--local", "x", "--url", "http://host/v1"], "--local and --url exclude each other"),
        (["--local", "x", "--model", "m", "--retries", "1"], "--local and --model, --retries exclude each other"),
        (["--local", "x", "--prices.input", "1"], "--local and --prices exclude each other"),
        (["--local", "x", "--max-tokens", "None"], "--max-tokens must be a number"),
        (["--url", "http://host/v1"], "give --model for one of an endpoint, or --local, got neither"),
        (["--local", "./nowhere"], "--local ./nowhere could not be loaded (there is no such folder)"),
    ],
)
def test_bad_options_are_refused(root: Path, capsys: pytest.CaptureFixture[str], more: list[str], said: str) -> None:
    assert said in failure(root, capsys, *more) and not (root / TEXTS).exists()


def changed(folder: Path, tmp_path: Path) -> Path:
    """A copy of a model's folder, to be changed."""
    (tmp_path / "changed").mkdir()
    for path in folder.iterdir():
        (tmp_path / "changed" / path.name).write_bytes(path.read_bytes())
    return tmp_path / "changed"


def test_what_is_no_such_model_is_refused(
    root: Path, llava: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = changed(llava, tmp_path)
    config = json.loads((folder / "config.json").read_text())

    def refused(**entries: object) -> str:
        (folder / "config.json").write_text(json.dumps({**config, **entries}))
        return failure(root, capsys, "--local", str(folder))

    # Nothing that a folder brings is run, and nothing is unpickled.
    (folder / "own.py").write_text("raise SystemExit('run')")
    own = {"AutoConfig": "own.Config", "AutoModelForImageTextToText": "own.Model"}
    assert "could not be loaded" in refused(model_type="own", auto_map=own)
    assert "could not be loaded" in refused(model_type="bert")
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights[:100])
    assert "could not be loaded" in refused()
    (folder / "model.safetensors").unlink()
    torch.save({}, folder / "pytorch_model.bin")
    assert "could not be loaded" in refused() and not answers(root)


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        ('```json\n{"description": "A man."}\n```', "A man."),
        ('```\n{"description": "A man."}```\n', "A man."),
        ('Here it is: {"description": "A man."}', ""),
        ("```json\nA man.\n```", ""),
    ],
)
def test_a_fence_around_the_form_does_not_count(answer: str, text: str) -> None:
    assert read_answer(answer) == text
