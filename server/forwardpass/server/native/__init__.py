"""What each method of forwardpass.v1 does."""
