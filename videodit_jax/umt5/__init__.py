"""UMT5 (Chung et al. 2023; T5: Raffel et al. 2020), the frozen text encoder of Wan 2.1: captions become features once, training reads these.

`model` is the encoder, `load` reads a directory of weights and tokenizer, `encoder` turns captions into features on the devices of a mesh.
"""

XXL = "umt5-xxl"
"""in the place of a directory: the published encoder's sizes alone"""
WORDS, WIDTH = 512, 4096
"""tokens of a caption that Wan 2.1 reads, and the width of their features"""
