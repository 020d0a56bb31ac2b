"""The shapes of answers, a file for each API: whole, and as the events of a stream."""
