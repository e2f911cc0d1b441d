"""The methods: a folder each, behind one contract (method.py), and the presets of all of them."""

from __future__ import annotations

from bdam_reid.config import Presets
from bdam_reid.methods.bdam import presets as bdam
from bdam_reid.methods.dual_encoder import config as dual_encoder
from bdam_reid.methods.mosaic import config as mosaic
from bdam_reid.methods.mta_clip import config as mta_clip

PRESETS: Presets = {**bdam.PRESETS, **dual_encoder.PRESETS, **mta_clip.PRESETS, **mosaic.PRESETS}
