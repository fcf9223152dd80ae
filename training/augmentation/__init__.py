"""What training does to a picture before the model sees it, seeded per image and epoch."""
