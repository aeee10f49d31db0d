"""The library's migrations."""
