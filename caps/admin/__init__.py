"""Changes the machine, as root: installs ppy, marks environments and scripts."""
