"""What a person asks, in the words that a model was trained on: its text tower knows no others.

A word that no training caption has gives way to the nearest that some have: by the colour that it
names, by a thesaurus, by the meaning that a language model gives it. What nothing comes near to stays, for the
tokenizer's pieces.
"""
