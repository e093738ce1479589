{{ scd2(ref('stg_customers_from_sales'), 'customer_id', ['customer_name', 'customer_city', 'customer_segment'], 'customer') }}
