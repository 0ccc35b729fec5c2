"""Shops, and their orders: as they were read, and as they were loaded."""

from django.db import models


class Shop(models.Model):
    """A shop that sends its orders every day."""

    code = models.CharField(max_length=20, unique=True)
    currency = models.CharField(max_length=3)
    turnover = models.DecimalField(max_digits=12, decimal_places=2, default=0, help_text="In euros.")

    def __str__(self) -> str:
        return str(self.code)


class StagedOrder(models.Model):
    """A line of a day's file, as it was read."""

    run_id = models.CharField(max_length=36, db_index=True)
    shop_code = models.CharField(max_length=20)
    number = models.CharField(max_length=20)
    amount = models.CharField(max_length=20)
    problem = models.TextField(default="", help_text="Why the line cannot be loaded.")

    def __str__(self) -> str:
        return f"{self.shop_code} {self.number}"


class Order(models.Model):
    """An order that was loaded."""

    shop = models.ForeignKey(Shop, on_delete=models.CASCADE, related_name="orders")
    number = models.CharField(max_length=20)
    day = models.DateField()
    euros = models.DecimalField(max_digits=12, decimal_places=2)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["shop", "number"], name="one_order_per_number")]

    def __str__(self) -> str:
        return f"{self.shop} {self.number}"
