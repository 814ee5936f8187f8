"""What is kept: results.json, results.csv, atomic files, benches joined."""
