"""Migrations of a service that exists only in tests."""
