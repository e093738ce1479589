-- Contact data is the latest known, on every version: nobody should write to an old address.
with contacts as (
    select
        customer_id,
        customer_email,
        customer_phone,
        observed_at,
        {{ known_group('customer_email', 'customer_id') }} as email_group,
        {{ known_group('customer_phone', 'customer_id') }} as phone_group,
        row_number() over (
            partition by customer_id
            order by observed_at desc, updated_at desc, order_id desc
        ) as place
    from {{ ref('stg_customers_from_sales') }}
),

known as (
    select
        customer_id,
        max(customer_email) over (partition by customer_id, email_group) as customer_email,
        max(customer_phone) over (partition by customer_id, phone_group) as customer_phone,
        place
    from contacts
)

select
    versions.customer_key,
    versions.customer_id,
    versions.customer_name,
    versions.customer_city,
    versions.customer_segment,
    known.customer_email,
    known.customer_phone,
    versions.first_seen_at,
    versions.valid_from,
    versions.valid_to,
    versions.is_current,
    versions.version
from {{ ref('int_customer_scd2') }} as versions
left join known
    on versions.customer_id = known.customer_id and known.place = 1

union all

{{ unknown_member(
    'customer',
    ['customer_name', 'customer_city', 'customer_segment'],
    {'customer_email': dbt.type_string(), 'customer_phone': dbt.type_string()}
) }}
