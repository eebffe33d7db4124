"""Looks at files, mounts, processes and ELF files; never judges them and never changes them."""
