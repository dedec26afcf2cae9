"""From folders of images and labels to a model file."""
