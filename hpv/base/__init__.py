"""What everything stands on: errors, words, float formats, this machine, memory that is used again."""
