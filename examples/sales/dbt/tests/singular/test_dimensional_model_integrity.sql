-- Every order of silver is exactly one fact with the same amounts, and every fact points at the version of each
-- dimension that was valid at order time; '-1' only where the dimension has no such member.
select 'order without fact' as problem, sales.order_id
from {{ ref('stg_sales_silver') }} as sales
left join {{ ref('fact_sales') }} as fact on sales.order_id = fact.order_id
where fact.order_id is null

union all

select 'fact without order', fact.order_id
from {{ ref('fact_sales') }} as fact
left join {{ ref('stg_sales_silver') }} as sales on fact.order_id = sales.order_id
where sales.order_id is null

union all

select 'fact differs from order', fact.order_id
from {{ ref('fact_sales') }} as fact
inner join {{ ref('stg_sales_silver') }} as sales on fact.order_id = sales.order_id
where
    fact.total_amount is distinct from sales.total_amount
    or fact.quantity is distinct from sales.quantity
    or fact.updated_at is distinct from sales.updated_at
    or fact.status is distinct from sales.status

{% for name in ['product', 'store', 'customer'] %}
union all

select '{{ name }} version not valid at order time', fact.order_id
from {{ ref('fact_sales') }} as fact
left join {{ ref('dim_' ~ name) }} as dim
    on fact.{{ name }}_key = dim.{{ name }}_key
    and fact.order_ts >= dim.valid_from
    and fact.order_ts < dim.valid_to
where dim.{{ name }}_key is null

union all

select '{{ name }} is known but the fact says it is not', fact.order_id
from {{ ref('fact_sales') }} as fact
inner join {{ ref('dim_' ~ name) }} as dim on fact.{{ name }}_id = dim.{{ name }}_id and dim.is_current
where fact.{{ name }}_key = '-1'
{% endfor %}
