"""What every service needs and no service owns: settings, errors, identity, servers, channels, database, blobs, events."""
