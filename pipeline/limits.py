"""Limits that the command line names and the readers hold; imports nothing, so that --help stays quick."""

MAX_VOXELS = 2**31
"""A volume of more is refused before anything is allocated: 8 GiB as float32."""
