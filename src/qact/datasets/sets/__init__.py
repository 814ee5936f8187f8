"""The data sets, one a file: where it comes from, its checksums, and what reads it."""
