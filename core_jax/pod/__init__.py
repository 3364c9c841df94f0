"""Compile any step for a named TPU slice on any machine, and read what comes out: memory, collectives, floors, an estimate.

The TPU compiler is in libtpu, which runs anywhere. Nothing here is measured.
"""
