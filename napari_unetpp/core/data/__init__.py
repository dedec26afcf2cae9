"""What goes into the network and comes out: images, grids, patches, files."""
