"""The test suite. Each test's docstring states a requirement; support/ gives access to servers, databases and streams."""
