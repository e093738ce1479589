select
    cast(date_trunc('month', invoice_date) as date) as month,
    count(distinct invoice_no) as invoices,
    count(distinct customer_id) as customers,
    sum(quantity) as units,
    sum(amount) as revenue
from {{ ref('stg_sales') }}
group by 1
