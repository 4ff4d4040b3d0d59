"""What a study's page is made of: its HTML, style and script, and the modules that fill them."""
