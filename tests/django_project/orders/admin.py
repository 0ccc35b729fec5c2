"""Shops and orders in Django's admin."""

from django.contrib import admin

from .models import Order, Shop, StagedOrder

admin.site.register([Order, Shop, StagedOrder])
