"""Webhooks: pulls deliveries from the router, renders, signs and posts them, and reports what was answered."""
