{{ config(materialized='view') }}

select
    {{ surrogate_key(['order_id']) }} as sales_key,
    order_id,
    order_date,
    order_ts,
    updated_at,
    store_id,
    customer_id,
    product_id,
    channel,
    payment_method,
    status,
    currency,
    quantity,
    unit_price,
    quantity * unit_price as gross_amount,
    discount as discount_amount,
    total_amount,
    silver_epoch,
    ingested_at
from {{ ref('stg_sales_silver') }}
