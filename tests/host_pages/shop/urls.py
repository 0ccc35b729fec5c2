"""The host's pages, under a prefix."""

from __future__ import annotations

from django.urls import include, path

urlpatterns = [path("pipelines/", include("pipelines.urls"))]
