with versions as (
    select
        order_id,
        {{ to_utc('order_ts') }} as order_ts,
        {{ to_utc('updated_at') }} as updated_at,
        store_id,
        store_name,
        store_region,
        customer_id,
        customer_name,
        customer_email,
        customer_phone,
        customer_city,
        customer_segment
    from {{ source('silver', 'sales_history') }}
)

select
    versions.*,
    case
        when updated_at = min(updated_at) over (partition by order_id) then order_ts
        else updated_at
    end as observed_at
from versions
