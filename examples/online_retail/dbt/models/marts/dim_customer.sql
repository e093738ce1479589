-- One row per customer and country, in the order of the invoices (SCD2): valid from its first invoice there
-- until the first one elsewhere. Of several countries in one moment the alphabetically last one counts.
with moments as (
    select customer_id, invoice_date, max(country) as country
    from {{ ref('stg_sales') }}
    group by customer_id, invoice_date
),

changes as (
    select
        customer_id,
        country,
        invoice_date,
        lag(country) over (partition by customer_id order by invoice_date) as before
    from moments
),

versions as (
    select
        customer_id,
        country,
        invoice_date as valid_from,
        lead(invoice_date) over (partition by customer_id order by invoice_date) as valid_to
    from changes
    where before is null or before <> country
)

select
    md5(cast(customer_id as varchar) || '|' || cast(valid_from as varchar)) as customer_key,
    customer_id,
    country,
    valid_from,
    valid_to,
    valid_to is null as is_current
from versions
