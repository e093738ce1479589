-- One current version per customer; versions follow one another without gap or overlap.
select customer_id
from {{ ref('dim_customer') }}
group by customer_id
having sum(case when is_current then 1 else 0 end) <> 1

union all

select a.customer_id
from {{ ref('dim_customer') }} as a
inner join {{ ref('dim_customer') }} as b
    on a.customer_id = b.customer_id and a.valid_from < b.valid_from
where a.valid_to is null or a.valid_to > b.valid_from
