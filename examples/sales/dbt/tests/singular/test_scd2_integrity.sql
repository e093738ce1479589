-- In every dimension: no overlap, no gap, one current version, and no two neighbours that look alike.
{% set tracked = {
    'product': ['product_name', 'product_category', 'unit_price'],
    'store': ['store_name', 'store_region'],
    'customer': ['customer_name', 'customer_city', 'customer_segment'],
} %}

{% for name, columns in tracked.items() %}
select '{{ name }}' as dimension, 'timeline' as problem, {{ name }}_id as member, valid_from
from ({{ broken_timelines(ref('dim_' ~ name), name ~ '_id') }}) as broken

union all

select '{{ name }}', 'no change', {{ name }}_id, valid_from
from (
    select
        {{ name }}_id,
        valid_from,
        version,
        {% for column in columns %}
        {{ column }} is not distinct from lag({{ column }}) over (partition by {{ name }}_id order by valid_from)
        {{ 'and' if not loop.last }}
        {% endfor %} as looks_alike
    from {{ ref('dim_' ~ name) }}
) as neighbours
where looks_alike and version > 1

{{ 'union all' if not loop.last }}
{% endfor %}
