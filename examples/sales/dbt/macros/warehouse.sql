{#- The few things that warehouses spell differently. -#}

{#- A timestamp with a zone as the same instant in UTC, without a zone. -#}
{% macro to_utc(column) %}{{ return(adapter.dispatch('to_utc')(column)) }}{% endmacro %}

{% macro default__to_utc(column) %}cast({{ column }} at time zone 'UTC' as timestamp){% endmacro %}

{% macro snowflake__to_utc(column) %}cast(convert_timezone('UTC', {{ column }}) as timestamp_ntz){% endmacro %}

{#- Spark's session time zone must be UTC. -#}
{% macro spark__to_utc(column) %}cast({{ column }} as timestamp){% endmacro %}

{#- The same text for the same values; never NULL. -#}
{% macro surrogate_key(columns) -%}
md5({% for column in columns %}coalesce(cast({{ column }} as {{ dbt.type_string() }}), ''){% if not loop.last %} || '|' || {% endif %}{% endfor %})
{%- endmacro %}

{#- The latest known value of a column: a missing value says nothing, so it is no change.
    Two steps, since not every warehouse has IGNORE NULLS. -#}
{% macro known_group(column, key) -%}
count({{ column }}) over (partition by {{ key }} order by observed_at rows unbounded preceding)
{%- endmacro %}

{#- Schemas are called what the models say; everything else goes to the target's. -#}
{% macro generate_schema_name(custom_schema_name, node) -%}
    {{ custom_schema_name | trim if custom_schema_name else target.schema }}
{%- endmacro %}
