"""Architectures. Each takes what a caller sends, such as raw pixels, so that what is trained is
what is exported; each states its paper.
"""
