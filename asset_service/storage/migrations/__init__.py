"""The migrations of the asset service's database."""
