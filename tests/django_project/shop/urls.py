"""The site's pages: pipelines, and Django's admin, where staff logs in."""

from django.contrib import admin
from django.urls import include, path
from django.views.generic import RedirectView

urlpatterns = [
    path("", RedirectView.as_view(pattern_name="pipelines:list")),
    path("admin/", admin.site.urls),
    path("pipelines/", include("pipelines.urls")),
]
