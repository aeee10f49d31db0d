"""What every service needs and none owns: settings, errors, identity, servers, channels, database, blobs, events."""
