"""Videos with exactly known transitions, spliced from single shots: what the detector is trained on."""
