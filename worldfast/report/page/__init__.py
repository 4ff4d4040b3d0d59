"""Parts of a study's page: its HTML, style and script, and the modules that fill them."""
