"""Dual encoders: text -> image with one embedding of an image and one of a sentence, by the losses of CLIP, IRRA, RDE.

The baselines that BDAM is compared with, on the same engine, data and evaluation. Sources: Radford et al. 2021 (CLIP);
Jiang and Ye, CVPR 2023 (IRRA); Qin et al., CVPR 2024 (RDE). Of IRRA it has similarity distribution matching and the
identity loss, not the masked words; of RDE the triplet alignment loss, not the selection of tokens and the division of
noisy pairs. Preset small-clip trains a CLIP from scratch, for other methods to begin with.
"""
