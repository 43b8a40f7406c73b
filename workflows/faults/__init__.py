"""The fault matrix: faults that clusters, disks and lines have, for real, and what must hold.

    python -m everview.workflows.faults [--rows 1 2 ...] [--seeds N] [--short] [--out FILE.json]

Every row starts `everview train tiny` as its users do and kills, stops, damages or fills for real;
then the same command again must leave what a run that nothing happened to leaves: the same weights,
bit for bit, and the same curve. Rows of streams send a capture over a line that loses, repeats,
disorders and spoils frames (`bad_line.py`), and compare rows, trajectory and state with those of a
good line. Seeds are printed, and a row with its seed repeats a fault.
"""
