"""Messages in, messages out: what each method does, written against `Call` alone."""
