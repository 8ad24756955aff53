"""The methods, one file each; base.py defines their interface."""
