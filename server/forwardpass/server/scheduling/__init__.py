"""What runs when: admission bounds what is accepted, a worker runs each version's jobs."""
