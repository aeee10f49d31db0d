"""The engines that come with Atelier. Each is found through the entry-point group `atelier.engines`."""
