"""What is shown: averages, figures, the page, the tables on a terminal."""
