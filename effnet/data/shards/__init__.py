"""Datasets as shards: planned, written, indexed, published, mirrored and verified."""
