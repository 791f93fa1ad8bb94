"""Running device code: the driver, memory on a device, a step as one graph."""
