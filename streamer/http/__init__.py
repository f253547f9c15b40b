"""The HTTP entrance: one declaration per operation, checked and served in one place, for the native API and the dialects.

The modules here are shared by all APIs. `native` has our own API; `dialects` has the foreign ones.
"""
