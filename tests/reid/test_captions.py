"""The rule-based splitter of captions."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bdam_reid.captions import splitter
from bdam_reid.captions.splitter import phrases, split_caption

EXAMPLES = [
    (
        "The woman has shoulder-length dark hair. She is wearing a white blouse with black trousers and "
        "carries a brown handbag over her left shoulder.",
        "The woman has shoulder-length dark hair.",
        "She is wearing a white blouse with black trousers and carries a brown handbag over her left shoulder.",
    ),
    (
        "A tall, slim young man with glasses wearing a red hooded jacket, blue jeans and white sneakers.",
        "A tall, slim young man with glasses.",
        "wearing a red hooded jacket, blue jeans and white sneakers.",
    ),
    ("man blue shirt black pants", "man.", "blue shirt black pants."),
    ("A man wearing glasses and a red shirt.", "A man wearing glasses.", "a red shirt."),
    ("He is tall and slim and wears slim blue jeans.", "He is tall and slim.", "wears slim blue jeans."),
    (
        "His hair is short and black and his shirt is red.",
        "His hair is short and black.",
        "his shirt is red.",
    ),
    (
        "She carries a bag over her shoulder and has long hair.",
        "has long hair.",
        "She carries a bag over her shoulder.",
    ),
    ("Wearing all black, the girl walks away.", "the girl walks away.", "Wearing all black."),
    (
        "A dark-haired lady; top: a short-sleeved shirt; bottom: beige shorts",
        "A dark-haired lady.",
        "top: a short-sleeved shirt. bottom: beige shorts.",
    ),
    ("A man with a crew cut and a grey suit.", "A man with a crew cut.", "a grey suit."),
    ("A woman in a face mask and boots.", "A woman.", "in a face mask and boots."),
    (
        "A boy facing away from the camera wearing a red shirt.",
        "A boy facing away from the camera.",
        "wearing a red shirt.",
    ),
    (
        "A towering, unshaven chap with flaxen hair in a gingham jersey, slouching.",
        "A towering, unshaven chap with flaxen hair, slouching.",
        "in a gingham jersey.",
    ),
    (
        "A gaunt, bronzed youngster with eyewear and a pageboy in a trenchcoat, a snapback and plimsolls.",
        "A gaunt, bronzed youngster with eyewear and a pageboy.",
        "in a trenchcoat, a snapback and plimsolls.",
    ),
    ("My grandpa has a stripy topcoat, tiny spots on it.", "My grandpa.", "has a stripy topcoat, tiny spots on it."),
    (
        "A short-statured, twenty-something lady, facing the camera, has a hand bag.",
        "A short-statured, twenty-something lady, facing the camera.",
        "has a hand bag.",
    ),
    ("The man looks at the camera. He holds a camera.", "The man looks at the camera.", "He holds a camera."),
    (
        "Wearing a long coat and boots, an old woman with white hair walks by, carrying a purse in her hand.",
        "an old woman with white hair walks by.",
        "Wearing a long coat and boots, carrying a purse in her hand.",
    ),
]


@pytest.mark.parametrize(("caption", "identity", "clothing"), EXAMPLES, ids=[e[0][:24] for e in EXAMPLES])
def test_examples(caption: str, identity: str, clothing: str) -> None:
    assert split_caption(caption) == (identity, clothing)


@pytest.mark.parametrize(
    "caption", ["A young woman.", "Blue jeans and a shirt.", "Somebody somewhere", "...", "走る人"]
)
def test_a_missing_part_is_the_whole_caption(caption: str) -> None:
    identity, clothing = split_caption(caption)
    assert identity and clothing
    assert caption in (identity, clothing)


@pytest.mark.parametrize(
    ("caption", "expected"),
    [("A tall man.", ("A tall man.", "")), ("Blue jeans.", ("", "Blue jeans.")), ("Somebody", ("", ""))],
)
def test_phrases_are_empty_where_there_are_none(caption: str, expected: tuple[str, str]) -> None:
    assert phrases(caption) == expected


@pytest.mark.parametrize("caption", ["", "  \n"])
def test_a_blank_caption_is_an_error(caption: str) -> None:
    with pytest.raises(ValueError, match="blank, got"):
        split_caption(caption)


@given(st.text(min_size=1).filter(str.strip))
def test_no_part_of_any_text_is_blank(caption: str) -> None:
    assert all(part.strip() for part in split_caption(caption))


PIECES = ["a man with red shirt and, ", " and", "red ", "- ", "  ", "wearing, ", "is black and "]


@pytest.mark.parametrize("piece", PIECES)
def test_work_grows_linearly(piece: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The words looked at, and the words that the parts are made of, are no more than the caption's words."""
    looked_at = 0

    def counting(word: str, kind=splitter._kind):
        nonlocal looked_at
        looked_at += 1
        return kind(word)

    monkeypatch.setattr(splitter, "_kind", counting)
    caption = "a tall man" + piece * 10_000
    identity, clothing = split_caption(caption)
    assert looked_at <= len(splitter.WORD.findall(caption))
    assert len(identity) + len(clothing) <= 2 * len(caption) + 2
