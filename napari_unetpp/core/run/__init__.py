"""An image through a model: device, tiles, levels, objects."""
