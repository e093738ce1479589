select
    product_key,
    product_id,
    product_name,
    product_category,
    unit_price,
    first_seen_at,
    valid_from,
    valid_to,
    is_current,
    version
from {{ ref('int_product_scd2') }}

union all

{{ unknown_member('product', ['product_name', 'product_category'], {'unit_price': 'decimal(10, 2)'}) }}
