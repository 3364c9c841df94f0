"""Captions of six parts (Koala-36M, section 4.2): asked for one by one, checked, asked again where they fail, merged into one text.

The paper names the parts and the length of the whole, about 200 words. Its prompts and its rule of merging are not published:
those here are our own.
"""
