"""From a version's files to a model that is ready, and everything that is checked on the way."""
