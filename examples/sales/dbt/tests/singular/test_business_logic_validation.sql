-- What the business swears by: totals add up, nobody pays less than nothing, cash is taken in stores only, and the
-- price of an order is the price of its product at that time.
select fact.order_id, 'total does not add up' as problem
from {{ ref('fact_sales') }} as fact
where
    fact.gross_amount <> fact.quantity * fact.unit_price
    or fact.total_amount <> fact.gross_amount - fact.discount_amount

union all

select fact.order_id, 'discount above the price'
from {{ ref('fact_sales') }} as fact
where fact.discount_amount < 0 or fact.discount_amount > fact.gross_amount

union all

select fact.order_id, 'cash outside a store'
from {{ ref('fact_sales') }} as fact
where fact.payment_method = 'cash' and fact.channel <> 'store'

union all

select fact.order_id, 'updated before it was ordered'
from {{ ref('fact_sales') }} as fact
where fact.updated_at < fact.order_ts
