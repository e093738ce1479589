{#- Generic tests: each selects the rows that break the promise. -#}

{% test not_negative(model, column_name) %}
select * from {{ model }} where {{ column_name }} < 0
{% endtest %}

{% test positive(model, column_name) %}
select * from {{ model }} where {{ column_name }} <= 0
{% endtest %}

{#- A member's versions follow one another: no overlap, no gap, no empty version, exactly one current, which is
    the last. -#}
{% test scd2_timeline(model, key) %}
{{ broken_timelines(model, key) }}
{% endtest %}

{% macro broken_timelines(relation, key) %}
select *
from (
    select
        {{ key }},
        valid_from,
        valid_to,
        is_current,
        lead(valid_from) over (partition by {{ key }} order by valid_from) as next_from,
        sum(case when is_current then 1 else 0 end) over (partition by {{ key }}) as current_versions
    from {{ relation }}
) as timeline
where
    valid_from >= valid_to
    or valid_to is distinct from coalesce(next_from, {{ end_of_time() }})
    or is_current is distinct from (next_from is null)
    or current_versions <> 1
{% endmacro %}
