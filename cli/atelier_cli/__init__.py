"""The `atelier` command: talks to a running system through `atelier_client`; starts parts by module name."""
