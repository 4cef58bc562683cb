-- Object types, their relations, and what Postgres's own catalog says of them.
-- Small tables, read whole or by primary key.

-- name: ListObjectTypes :many
SELECT name, table_name, id_column, organization_column, custom_column, identity_before::text AS identity_before,
       reply_when, coalesce(reply_lead, '')::text AS reply_lead, coalesce(reply_contact, '')::text AS reply_contact,
       coalesce(reply_channel, '')::text AS reply_channel
  FROM pgautomate.object_types ORDER BY name;

-- name: PutObjectType :exec
INSERT INTO pgautomate.object_types AS o (name, table_name, id_column, organization_column, custom_column, identity_before,
                                          reply_when, reply_lead, reply_contact, reply_channel)
VALUES (@name, @table_name, @id_column, @organization_column, @custom_column, (@identity_before::text)::"char",
        sqlc.narg(reply_when), nullif(@reply_lead::text, ''), nullif(@reply_contact::text, ''), nullif(@reply_channel::text, ''))
ON CONFLICT (name) DO UPDATE SET table_name = excluded.table_name, id_column = excluded.id_column,
    organization_column = excluded.organization_column, custom_column = excluded.custom_column, reply_when = excluded.reply_when,
    reply_error = NULL, reply_lead = excluded.reply_lead, reply_contact = excluded.reply_contact, reply_channel = excluded.reply_channel;

-- name: MarkReplies :execrows
UPDATE pgautomate.object_types SET reply_error = nullif(@error::text, '')
 WHERE name = @name AND reply_error IS DISTINCT FROM nullif(@error::text, '');

-- name: DeleteObjectType :exec
DELETE FROM pgautomate.object_types WHERE name = @name;

-- name: DeleteRelations :exec
DELETE FROM pgautomate.object_relations;

-- Both ways of every foreign key between two watched tables that joins one column,
-- beside the one that says whose the rows are.
-- name: FillRelations :exec
WITH pairs AS (
    SELECT c.oid, c.conname, a.name AS a, fa.attname AS a_column, b.name AS b, ta.attname AS b_column
      FROM pg_catalog.pg_constraint c
      JOIN pgautomate.object_types a ON to_regclass(a.table_name)::oid = c.conrelid
      JOIN pgautomate.object_types b ON to_regclass(b.table_name)::oid = c.confrelid
     CROSS JOIN LATERAL generate_subscripts(c.conkey, 1) AS n
      JOIN pg_catalog.pg_attribute fa ON fa.attrelid = c.conrelid AND fa.attnum = c.conkey[n]
      JOIN pg_catalog.pg_attribute ta ON ta.attrelid = c.confrelid AND ta.attnum = c.confkey[n]
     WHERE c.contype = 'f'
       AND (cardinality(c.conkey) = 1 OR (fa.attname, ta.attname) IS DISTINCT FROM (a.organization_column, b.organization_column))
), joins AS (
    SELECT conname, a, min(a_column::text) AS a_column, b, min(b_column::text) AS b_column
      FROM pairs GROUP BY oid, conname, a, b HAVING count(*) = 1
)
INSERT INTO pgautomate.object_relations (this_object_type, this_column, related_object_type, related_column, foreign_key)
SELECT a, a_column, b, b_column, conname FROM joins
UNION
SELECT b, b_column, a, a_column, conname FROM joins
ON CONFLICT DO NOTHING;

-- name: ListRelations :many
SELECT this_object_type, this_column, related_object_type, related_column, foreign_key
  FROM pgautomate.object_relations ORDER BY 1, 3, 2;

-- name: FindTable :one
SELECT c.oid::bigint AS oid, n.nspname::text AS schema_name, c.relname::text AS table_name,
       format('%I.%I', n.nspname, c.relname)::text AS quoted,
       c.relkind::text AS kind, c.relreplident::text AS identity, c.relpersistence::text AS persistence
  FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 WHERE c.oid = to_regclass(@name::text)::oid;

-- The partitions of a table that hold rows; each has a replica identity of its own,
-- which decides what the log holds of its rows.
-- name: PartitionIdentities :many
SELECT n.nspname::text AS schema_name, c.relname::text AS table_name,
       format('%I.%I', n.nspname, c.relname)::text AS quoted, c.relreplident::text AS identity
  FROM pg_catalog.pg_partition_tree((@oid::bigint)::oid::regclass) p
  JOIN pg_catalog.pg_class c ON c.oid = p.relid AND c.relkind = 'r'
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 WHERE c.oid <> (@oid::bigint)::oid
 ORDER BY 3;

-- Generated columns are hidden from the stream, but for stored ones when the publication has publish_generated_columns (Postgres 18).
-- name: TableColumns :many
SELECT a.attname::text AS name, a.atttypid::bigint AS type_oid, format_type(a.atttypid, a.atttypmod)::text AS type_name,
       coalesce(a.attnotnull, false)::boolean AS not_null, (a.attgenerated = 'v')::boolean AS is_virtual,
       (a.attgenerated <> '' AND NOT (a.attgenerated = 's' AND EXISTS (
           SELECT FROM pg_catalog.pg_publication p WHERE p.pubname = @publication::text AND to_jsonb(p) ->> 'pubgencols' = 's')))::boolean AS is_hidden
  FROM pg_catalog.pg_attribute a
 WHERE a.attrelid = (@oid::bigint)::oid AND a.attnum > 0 AND NOT a.attisdropped
 ORDER BY a.attnum;

-- The columns of the primary key, in its order.
-- name: PrimaryKey :many
SELECT a.attname::text AS name
  FROM pg_catalog.pg_index i
 CROSS JOIN LATERAL unnest(i.indkey) WITH ORDINALITY k (attnum, place)
  JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
 WHERE i.indrelid = (@oid::bigint)::oid AND i.indisprimary
 ORDER BY k.place;

-- Columns that alone are unique, by a plain index.
-- name: UniqueColumns :many
SELECT a.attname::text AS name
  FROM pg_catalog.pg_index i
  JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0]
 WHERE i.indrelid = (@oid::bigint)::oid AND i.indisunique AND i.indnkeyatts = 1 AND i.indpred IS NULL
   AND i.indexprs IS NULL AND i.indisvalid;

-- Domains resolved to what they are made of; everything else as it is.
-- name: BaseTypes :many
WITH RECURSIVE base AS (
    SELECT t.oid AS asked, t.oid, t.typtype, t.typbasetype FROM pg_catalog.pg_type t WHERE t.oid = ANY ((@oids::bigint[])::oid[])
    UNION ALL
    SELECT b.asked, t.oid, t.typtype, t.typbasetype
      FROM base b JOIN pg_catalog.pg_type t ON t.oid = b.typbasetype WHERE b.typtype = 'd'
)
SELECT asked::bigint AS asked, oid::bigint AS oid FROM base WHERE typtype <> 'd';

-- name: PublicationExists :one
SELECT EXISTS (SELECT FROM pg_catalog.pg_publication WHERE pubname = @name::text);

-- name: PublishedTables :many
SELECT format('%I.%I', n.nspname, c.relname)::text AS quoted
  FROM pg_catalog.pg_publication p
  JOIN pg_catalog.pg_publication_rel r ON r.prpubid = p.oid
  JOIN pg_catalog.pg_class c ON c.oid = r.prrelid
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 WHERE p.pubname = @name::text;

-- name: OrganizationTimeZone :one
SELECT time_zone FROM pgautomate.organizations WHERE id = @id;

-- name: OrganizationTimeZones :many
SELECT id, time_zone FROM pgautomate.organizations WHERE time_zone <> 'UTC';

-- name: ServerSettings :one
SELECT current_setting('wal_level')::text AS wal_level,
       coalesce(current_setting('max_slot_wal_keep_size', true), '')::text AS keep_size,
       coalesce(current_setting('idle_replication_slot_timeout', true), '0')::text AS idle_timeout, -- Postgres 18
       (current_setting('max_replication_slots')::integer - (SELECT count(*) FROM pg_catalog.pg_replication_slots))::integer AS free_slots,
       (SELECT count(*) FROM pg_catalog.pg_replication_slots r WHERE r.slot_name IN (SELECT f.slot_name FROM pgautomate.feed_checkpoints f))::integer AS own_slots,
       current_user::text AS role,
       coalesce((SELECT u.rolreplication OR u.rolsuper FROM pg_catalog.pg_roles u WHERE u.rolname = current_user), false)::boolean AS replication,
       pg_has_role('pg_read_all_stats', 'USAGE') AS sees_sessions;

-- name: ListProblems :many
SELECT coalesce(severity, '')::text AS severity, coalesce(subject, '')::text AS subject,
       coalesce(problem, '')::text AS problem, coalesce(fix, '')::text AS fix
  FROM pgautomate.problems;

-- name: PublicationFilters :many
SELECT format('%I.%I', n.nspname, c.relname)::text AS quoted
  FROM pg_catalog.pg_publication p
  JOIN pg_catalog.pg_publication_rel r ON r.prpubid = p.oid
  JOIN pg_catalog.pg_class c ON c.oid = r.prrelid
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 WHERE p.pubname = @name::text
   AND (to_jsonb(r) ->> 'prqual' IS NOT NULL OR to_jsonb(r) ->> 'prattrs' IS NOT NULL);

-- Whether the server knows publish_generated_columns (Postgres 18), and whether the publication has it. Without it such a server
-- refuses every update and delete of a published table with REPLICA IDENTITY FULL and a generated column.
-- name: PublicationGenerated :one
SELECT (current_setting('server_version_num')::integer >= 180000)::boolean AS known,
       coalesce((SELECT to_jsonb(p) ->> 'pubgencols' = 's' FROM pg_catalog.pg_publication p WHERE p.pubname = @name::text), false)::boolean AS published;
