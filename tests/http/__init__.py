"""The HTTP entrance: parsing, limits, history, hostile input."""
