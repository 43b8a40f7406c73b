"""The campaign: long runs on rented machines."""
