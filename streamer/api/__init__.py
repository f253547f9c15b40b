"""The native API: routes, what they read and write, and the document that describes them."""
