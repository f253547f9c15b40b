"""The foreign APIs: their exchanges, their documents and their released clients."""
