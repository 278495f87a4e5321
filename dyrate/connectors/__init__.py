"""What stands between a vision tower and a language model: one file for each published compressor."""
