"""Configs shipped with the package: ordinary YAML files."""
