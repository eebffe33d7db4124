"""Which capabilities a command or a function needs, and the proof: it runs with less and more."""
