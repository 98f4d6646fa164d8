"""Pictures for people: each function returns the bytes of a PNG file."""
