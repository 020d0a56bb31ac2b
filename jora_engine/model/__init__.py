"""The decoder: its parameters, arithmetic, attention, cache and placement on devices. Knows no file and no training."""
