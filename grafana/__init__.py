"""What an operator gives Grafana and Prometheus: dashboards and alert rules, made by :mod:`grafana.build`."""
