"""The built-in reduction methods, one file each."""
