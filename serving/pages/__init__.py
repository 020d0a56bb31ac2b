"""The pages that people without a client see: templates, styles and scripts of our own, and nothing from elsewhere."""
