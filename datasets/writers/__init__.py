"""Writers: cameras in the files that other tools read. Each file appears whole or not at all."""
