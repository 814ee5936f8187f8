"""What is trained and measured: the recipe, its parts, its files, and the rows it asks for."""
