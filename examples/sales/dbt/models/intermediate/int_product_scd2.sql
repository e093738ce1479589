{{ scd2(ref('stg_products_from_sales'), 'product_id', ['product_name', 'product_category', 'unit_price'], 'product') }}
