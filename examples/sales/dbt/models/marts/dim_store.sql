select
    store_key,
    store_id,
    store_name,
    store_region,
    first_seen_at,
    valid_from,
    valid_to,
    is_current,
    version
from {{ ref('int_store_scd2') }}

union all

{{ unknown_member('store', ['store_name', 'store_region']) }}
