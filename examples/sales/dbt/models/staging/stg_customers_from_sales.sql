select
    customer_id,
    observed_at,
    customer_name,
    customer_email,
    customer_phone,
    customer_city,
    customer_segment,
    order_id,
    updated_at
from {{ ref('stg_sales_history') }}
where customer_id is not null
