"""The measurements, as users run them and part by part."""
