"""From video files to shots: finding the files, detecting, cutting, keeping record, showing."""
