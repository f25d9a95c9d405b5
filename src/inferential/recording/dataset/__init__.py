"""Datasets to train policies on, made of recordings."""
