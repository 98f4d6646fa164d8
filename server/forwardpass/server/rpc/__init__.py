"""What the handlers of both protocols share, written against `Call` alone."""
