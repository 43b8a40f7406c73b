"""Evaluation: image and depth metrics, floors, protocols, and the run that prints them together."""
