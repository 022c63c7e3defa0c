-- Words that are common are in many items, and so are categories and outcomes; both at once are in few. The index of words
-- brings them together, so it knows these facts as words of their own. In capital letters, which no visitor's words have.
update items set words = words || array_to_tsvector(
    array_remove(array['C' || category_id, 'S' || seller_id, coalesce(upper(outcome), 'RUNNING')], null)
) where outcome is distinct from 'deleted';
