-- Every sale is in exactly one month.
select 1
where (select sum(revenue) from {{ ref('monthly_revenue') }})
    <> (select sum(amount) from {{ ref('stg_sales') }})
