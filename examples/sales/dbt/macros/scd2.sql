{#- The versions of every member, from what was seen of it and when: no overlap, no gap, one current version.

    Times come from the data, so late and corrected sightings fall into place: all timelines are worked out anew.
    The first version is valid since ever, so that a fact before the first sighting has a version too.

    sightings: a relation with `key`, observed_at, updated_at, order_id and the tracked columns.
-#}
{% macro scd2(sightings, key, tracked, name) %}
with ranked as (
    select
        {{ key }},
        observed_at,
        {% for column in tracked %}{{ column }},{% endfor %}
        row_number() over (
            partition by {{ key }}, observed_at
            order by updated_at desc, order_id desc
        ) as place
    from {{ sightings }}
),

grouped as (
    select
        {{ key }},
        observed_at,
        {% for column in tracked %}
        {{ column }},
        {{ known_group(column, key) }} as {{ column }}_group{{ ',' if not loop.last }}
        {% endfor %}
    from ranked
    where place = 1
),

known as (
    select
        {{ key }},
        observed_at,
        {% for column in tracked %}
        max({{ column }}) over (partition by {{ key }}, {{ column }}_group) as {{ column }}{{ ',' if not loop.last }}
        {% endfor %}
    from grouped
),

compared as (
    select
        known.*,
        {% for column in tracked %}
        lag({{ column }}) over (partition by {{ key }} order by observed_at) as previous_{{ column }},
        {% endfor %}
        row_number() over (partition by {{ key }} order by observed_at) as sighting
    from known
),

changes as (
    select
        {{ key }},
        {% for column in tracked %}{{ column }},{% endfor %}
        observed_at as first_seen_at,
        case when sighting = 1 then {{ beginning() }} else observed_at end as valid_from,
        lead(observed_at) over (partition by {{ key }} order by observed_at) as next_from,
        row_number() over (partition by {{ key }} order by observed_at) as version
    from compared
    where
        sighting = 1
        {% for column in tracked %}
        or {{ column }} is distinct from previous_{{ column }}
        {% endfor %}
)

select
    {{ surrogate_key([key, 'valid_from']) }} as {{ name }}_key,
    {{ key }},
    {% for column in tracked %}{{ column }},{% endfor %}
    first_seen_at,
    valid_from,
    coalesce(next_from, {{ end_of_time() }}) as valid_to,
    next_from is null as is_current,
    version
from changes
{% endmacro %}

{% macro beginning() %}cast('1900-01-01 00:00:00' as timestamp){% endmacro %}

{% macro end_of_time() %}cast('9999-12-31 00:00:00' as timestamp){% endmacro %}

{#- The row for facts whose member nobody knows. -#}
{% macro unknown_member(name, texts=[], empty={}) %}
select
    '-1' as {{ name }}_key,
    '-1' as {{ name }}_id,
    {% for column in texts %}'Unknown' as {{ column }},{% endfor %}
    {% for column, type in empty.items() %}cast(null as {{ type }}) as {{ column }},{% endfor %}
    {{ beginning() }} as first_seen_at,
    {{ beginning() }} as valid_from,
    {{ end_of_time() }} as valid_to,
    true as is_current,
    1 as version
{% endmacro %}
