"""Tests of what fits the package into frameworks: real Django projects, in processes of their own."""
