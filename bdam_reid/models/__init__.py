"""The model of both drafts, from pixels and word pieces to features."""

from bdam_reid.models.bdam import BDAM
from bdam_reid.models.encoders import ImageEncoder, TextEncoder
from bdam_reid.models.fusion import Fusion
from bdam_reid.models.model import BDAMReID, ImageFeatures, TextFeatures

__all__ = ["BDAM", "BDAMReID", "Fusion", "ImageEncoder", "ImageFeatures", "TextEncoder", "TextFeatures"]
