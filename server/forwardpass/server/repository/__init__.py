"""The models on disk, the versions of each, and which of them serve."""
