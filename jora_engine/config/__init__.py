"""What a model, an adapter and a training are, as frozen values: no array library, no file."""
