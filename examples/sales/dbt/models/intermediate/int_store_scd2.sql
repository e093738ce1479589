{{ scd2(ref('stg_stores_from_sales'), 'store_id', ['store_name', 'store_region'], 'store') }}
