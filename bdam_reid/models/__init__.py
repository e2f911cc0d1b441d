"""The model of both drafts, from pixels and word pieces to features."""

from .bdam import BDAM
from .encoders import ImageEncoder, TextEncoder
from .fusion import Fusion
from .model import BDAMReID, ImageFeatures, TextFeatures

__all__ = ["BDAM", "BDAMReID", "Fusion", "ImageEncoder", "ImageFeatures", "TextEncoder", "TextFeatures"]
