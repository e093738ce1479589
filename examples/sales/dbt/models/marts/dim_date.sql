-- Every day of every year that has an order.
with bounds as (
    select
        cast({{ dbt.date_trunc('year', 'min(order_date)') }} as date) as first_day,
        max(order_date) as last_day
    from {{ ref('stg_sales_silver') }}
),

digits as (
    {% for digit in range(10) %}
    select {{ digit }} as digit{{ ' union all' if not loop.last }}
    {% endfor %}
),

numbers as (
    select ones.digit + 10 * tens.digit + 100 * hundreds.digit + 1000 * thousands.digit as number
    from digits as ones
    cross join digits as tens
    cross join digits as hundreds
    cross join digits as thousands
),

days as (
    select cast({{ dbt.dateadd('day', 'numbers.number', 'bounds.first_day') }} as date) as full_date
    from bounds
    cross join numbers
    where
        {{ dbt.dateadd('day', 'numbers.number', 'bounds.first_day') }}
        < {{ dbt.dateadd('year', 1, dbt.date_trunc('year', 'bounds.last_day')) }}
),

parts as (
    select
        full_date,
        cast(extract(year from full_date) as integer) as year,
        cast(extract(quarter from full_date) as integer) as quarter,
        cast(extract(month from full_date) as integer) as month,
        cast(extract(day from full_date) as integer) as day,
        -- 1900-01-01 was a Monday; warehouses count week days differently, days they count alike
        cast({{ dbt.datediff("cast('1900-01-01' as date)", 'full_date', 'day') }} % 7 + 1 as integer) as day_of_week
    from days
)

select
    year * 10000 + month * 100 + day as date_key,
    full_date,
    year,
    quarter,
    month,
    day,
    day_of_week,
    case month
        {% for name in 'January February March April May June July August September October November December'.split() %}
        when {{ loop.index }} then '{{ name }}'
        {% endfor %}
    end as month_name,
    case day_of_week
        {% for name in 'Monday Tuesday Wednesday Thursday Friday Saturday Sunday'.split() %}
        when {{ loop.index }} then '{{ name }}'
        {% endfor %}
    end as day_name,
    day_of_week >= 6 as is_weekend
from parts
