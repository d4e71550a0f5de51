"""What a user holds and calls."""
