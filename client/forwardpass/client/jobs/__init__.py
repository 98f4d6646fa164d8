"""Embedding jobs: many pictures, texts or rows of arrays to vectors in a folder, resumable.

A job's folder holds the list of what is embedded, which is made first and never changes; shards of
vectors in Parquet, each there whole or not at all; and a manifest that says what they are.
"""
