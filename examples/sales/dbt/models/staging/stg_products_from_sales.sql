select
    sales.product_id,
    sales.order_ts as observed_at,
    sales.product_name,
    sales.product_category,
    sales.unit_price,
    sales.order_id,
    sales.updated_at
from {{ ref('stg_sales_silver') }} as sales
inner join {{ source('silver', 'products') }} as register
    on sales.product_id = register.product_id
