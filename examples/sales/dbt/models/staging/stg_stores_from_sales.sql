select
    store_id,
    observed_at,
    store_name,
    store_region,
    order_id,
    updated_at
from {{ ref('stg_sales_history') }}
where store_id is not null
