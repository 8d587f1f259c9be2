"""Small pretrained models to take away."""
