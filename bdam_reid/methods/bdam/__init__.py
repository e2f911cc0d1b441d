"""BDAM: text -> image, identity and clothing disentangled by a bidirectional decoupled alignment module.

Sources are the two drafts of the paper: "icme" (the conference draft) and "long" (the longer draft). Where both are
silent or disagree, the config says which reading is meant.
"""
