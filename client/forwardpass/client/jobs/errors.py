"""What is wrong with a job."""


class JobError(Exception):
    """A job cannot begin, or not go on; the message says why, and what to do."""
