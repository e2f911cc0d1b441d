"""MoSAIC-ReID: low-rank experts, one for each state of an attribute, in the last layers of a frozen image tower.

Which experts read an image, its attribute labels decide, and a switch for each attribute: so one can ask what a model
loses without an attribute. Labels are truths that a search has not; results with them are called those of an oracle.
Source: Psalta, Tsironis and Karantzalos, arXiv 2512.08697, which has no public code; low-rank adaptation by Hu et al.,
ICLR 2022.
"""
