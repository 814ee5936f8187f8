"""What a rank is, on plain tensors: the histogram that it is read from, its rule, its levels."""
