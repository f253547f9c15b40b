"""The tests. Each states in its docstring what must hold; support/ is how they reach servers, databases and streams."""
