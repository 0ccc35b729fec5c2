"""What the site's pipelines are run for."""

from __future__ import annotations

import uuid

from django.db import models


class Region(models.Model):
    """What a pipeline iterates over."""

    name = models.CharField(max_length=50)
    total = models.IntegerField(default=0)

    def __str__(self) -> str:
        return f"region {self.name}"


class Order(models.Model):
    """What a task iterates over."""

    name = models.CharField(max_length=50)
    total = models.IntegerField(default=0)

    def __str__(self) -> str:
        return f"order {self.name}"


class Parcel(models.Model):
    """A model whose key is no number."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4)
    name = models.CharField(max_length=50)

    def __str__(self) -> str:
        return f"parcel {self.name}"
