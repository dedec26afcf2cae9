"""What is painted: a journal that outlives a crash, and a folder of images with their paint."""
