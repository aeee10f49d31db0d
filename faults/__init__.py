"""Seeded faults against real processes on PostgreSQL, and an auditor that says what they did to the jobs."""
