"""Dashboards, alert rules and provisioning: what is generated, and whether it holds."""
