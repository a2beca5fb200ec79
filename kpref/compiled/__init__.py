"""What compiled code is made with: the compiler, when its results on disk hold, and elementary functions."""
