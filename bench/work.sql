-- Inserts, an index, joins and updates; prints what came out.
pragma journal_mode = off;
pragma synchronous = off;
create table t(id integer primary key, a integer, b text);
begin;
with recursive n(i) as (select 1 union all select i + 1 from n where i < 300000)
insert into t select i, i * 7919 % 10007, 'row ' || (i * 31 % 1013) from n;
commit;
create index t_a on t(a);
select count(*), sum(a), max(b) from t;
select b, count(*), sum(a) from t group by b order by 3 desc, 1 limit 5;
select count(*) from t x join t y on x.a = y.id where y.b like 'row 1%';
update t set b = b || '!' where a < 3000;
delete from t where a > 9000;
select count(*), sum(length(b)), sum(id) from t;
