"""Compile any step for a named TPU slice on a machine without one, and read what comes out: memory, collectives, floors, an estimate.

The TPU compiler is in libtpu, which runs on any Linux x86 machine. Nothing here is measured.
"""
