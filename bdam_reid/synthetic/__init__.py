"""A synthetic pedestrian set, drawn and described by this package, in the layout of CUHK-PEDES or Market-1501.

    python -m bdam_reid.synthetic OUT --identities 800 --seed 0

It stands in for the public sets where these cannot be had, and it is no substitute for them: it is always
called synthetic. Drawn persons have identity attributes (sex, age, build, height, skin, hair, posture,
glasses, beard) and several outfits; they walk past six cameras of different scenery and light. Six eighths
of the identities are for training, one for validation, one for the test.

Files in OUT, where a key is a `file_path` of reid_raw.json:

    imgs/                 the pictures, 96 x 192 pixels; keys are relative to it
    reid_raw.json         [{split, captions, file_path, processed_tokens, id}], as in CUHK-PEDES, ids from 1
    texts.json            key -> {identity, clothing, style}: identity and clothing in two separate texts
    attributes.json       key -> {identity, outfit, outfit_index, bag_side, camera, viewpoint, occluded, visible,
                                  visible_slots}
    statements.json       key -> [{identity, clothing}], one a caption
    clothing_change.json  {queries: [{caption, id, outfit, file_path}],
                           gallery: [{captions, id, outfit, file_path}]}, of the test persons
    clothing_change_val.json  the same of the validation persons
    ceilings.json         protocol -> reader -> {R-1, mAP}: how well perfect readers find its persons, see ceiling.py

The standard protocol is CUHK-PEDES' own: all captions of `split: test` against all images of `split: test`.
A test or validation person wears one outfit there (four pictures by four cameras), a training person two or
three outfits (five or six pictures), from which a model can learn what stays when the clothes change.

The clothing-change protocol takes the same captions and another gallery: two pictures of every test (or
validation) person in a second outfit, which shares no item of one kind and colour with the first, nor the colour of the
clothes above or below the waist. Only identity attributes can find the person. These pictures are under
`imgs/clothing_change/` and not in reid_raw.json: the standard gallery has no image of a person in clothes
that no query describes, and none of the test persons' gallery was seen by the model or by model selection,
which has the validation persons' for it.

A caption says what can be seen in its own picture only: no glasses from behind, no style of hair below a hat. `visible`
lists the identity attributes that a picture shows, `visible_slots` the places of garments and bags that it shows, worn
or not; `statements.json` has the values that each caption states. From them `ceilings.json` says how well a perfect
reader of the captions could do, and so does every evaluation on the set; `python -m bdam_reid.synthetic.ceiling OUT`
prints it.

`--layout market` writes pictures in folders and under names as Market-1501's, and its file of attributes; see
`market.py`.
"""

from bdam_reid.synthetic.market import write_market
from bdam_reid.synthetic.output import SyntheticError
from bdam_reid.synthetic.writer import write_synthetic

__all__ = ["SyntheticError", "write_market", "write_synthetic"]
