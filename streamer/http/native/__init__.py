"""The native API: one module per resource, and the OpenAPI document that describes them."""
