"""Our own clients, and the programs that the documents show."""
