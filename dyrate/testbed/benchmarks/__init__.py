"""The local benchmarks: their rows in the columns of the real data sets, and their files."""
