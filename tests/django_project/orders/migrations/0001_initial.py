"""The tables as they began."""

import django.db.models.deletion
from django.db import migrations, models


class Migration(migrations.Migration):
    """Make them."""

    initial = True

    operations = [
        migrations.CreateModel(
            name="Shop",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("code", models.CharField(max_length=20, unique=True)),
                ("currency", models.CharField(max_length=3)),
                ("turnover", models.DecimalField(decimal_places=2, default=0, help_text="In euros.", max_digits=12)),
            ],
        ),
        migrations.CreateModel(
            name="StagedOrder",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("run_id", models.CharField(db_index=True, max_length=36)),
                ("shop_code", models.CharField(max_length=20)),
                ("number", models.CharField(max_length=20)),
                ("amount", models.CharField(max_length=20)),
                ("problem", models.TextField(default="", help_text="Why the line cannot be loaded.")),
            ],
        ),
        migrations.CreateModel(
            name="Order",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("number", models.CharField(max_length=20)),
                ("day", models.DateField()),
                ("euros", models.DecimalField(decimal_places=2, max_digits=12)),
                (
                    "shop",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE, related_name="orders", to="orders.shop"
                    ),
                ),
            ],
            options={
                "constraints": [models.UniqueConstraint(fields=("shop", "number"), name="one_order_per_number")],
            },
        ),
    ]
