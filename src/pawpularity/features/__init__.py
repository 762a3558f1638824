"""Cached features: what the frozen part of a network gives for a photo is computed once, kept on disk, and memory-mapped."""
