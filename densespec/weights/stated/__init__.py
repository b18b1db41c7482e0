"""What files state of their networks beside the arrays: Keras's configs, timm's config.json."""
