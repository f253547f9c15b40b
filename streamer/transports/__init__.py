"""How a feed reaches a reader: shared bytes, written straight to the socket's transport."""
