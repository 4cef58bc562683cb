-- A trigger that names single recipients only is accepted by one statement: its event, what it says of its recipients, their
-- notifications. Attachments, credentials, an e-mail of null, topics and broadcasts go the longer way (notification/trigger.go).

-- +goose Up
-- Makes those that are missing, changes those of whom something new is said; the others are not touched, nor locked. Who was
-- deleted begins anew. subscribers_organization_id_subscriber_id_key.
-- +goose StatementBegin
CREATE FUNCTION pgautomate.upsert_subscribers(organization text, recipients jsonb) RETURNS void
LANGUAGE plpgsql SET search_path = pgautomate, pg_temp AS $$
BEGIN -- in plpgsql, whose plans are kept
    INSERT INTO subscribers AS s (organization_id, subscriber_id, first_name, last_name, email, phone, avatar, locale, timezone, data)
    SELECT organization, r.subscriber_id, nullif(r.first_name, ''), nullif(r.last_name, ''), nullif(r.email, ''), nullif(r.phone, ''),
           nullif(r.avatar, ''), nullif(r.locale, ''), nullif(r.timezone, ''), r.data
      FROM jsonb_to_recordset(recipients) AS r (subscriber_id text, first_name text, last_name text, email text, phone text, avatar text,
                                                locale text, timezone text, data jsonb)
      LEFT JOIN LATERAL (SELECT x.* FROM subscribers x
                          WHERE x.organization_id = organization AND x.subscriber_id = r.subscriber_id LIMIT 1) o ON true -- never all of them
     WHERE o.id IS NULL OR o.deleted_at IS NOT NULL
        OR nullif(r.first_name, '') <> coalesce(o.first_name, '') OR nullif(r.last_name, '') <> coalesce(o.last_name, '')
        OR nullif(r.email, '') <> coalesce(o.email, '') OR nullif(r.phone, '') <> coalesce(o.phone, '')
        OR nullif(r.avatar, '') <> coalesce(o.avatar, '') OR nullif(r.locale, '') <> coalesce(o.locale, '')
        OR nullif(r.timezone, '') <> coalesce(o.timezone, '') OR r.data IS DISTINCT FROM coalesce(o.data, 'null') AND r.data IS NOT NULL
     ORDER BY r.subscriber_id
    ON CONFLICT (organization_id, subscriber_id) DO UPDATE
       SET first_name = coalesce(excluded.first_name, CASE WHEN s.deleted_at IS NULL THEN s.first_name END),
           last_name = coalesce(excluded.last_name, CASE WHEN s.deleted_at IS NULL THEN s.last_name END),
           email = coalesce(excluded.email, CASE WHEN s.deleted_at IS NULL THEN s.email END),
           phone = coalesce(excluded.phone, CASE WHEN s.deleted_at IS NULL THEN s.phone END),
           avatar = coalesce(excluded.avatar, CASE WHEN s.deleted_at IS NULL THEN s.avatar END),
           locale = coalesce(excluded.locale, CASE WHEN s.deleted_at IS NULL THEN s.locale END),
           timezone = coalesce(excluded.timezone, CASE WHEN s.deleted_at IS NULL THEN s.timezone END),
           data = coalesce(excluded.data, CASE WHEN s.deleted_at IS NULL THEN s.data END),
           channels = CASE WHEN s.deleted_at IS NULL THEN s.channels ELSE '[]' END,
           created_at = CASE WHEN s.deleted_at IS NULL THEN s.created_at ELSE now() END,
           deleted_at = NULL, updated_at = now();
END $$;

-- Accepts a trigger for single recipients and gives its event; NULL: that transactionId was there before, nothing is changed.
-- recipients is a list of {subscriber_id, ...}, each once.
CREATE FUNCTION pgautomate.accept_event(organization text, workflow bigint, transaction text, steps bigint[], payload jsonb,
                                        overrides jsonb, tenant bigint, cause jsonb, recipients jsonb) RETURNS bigint
LANGUAGE plpgsql SET search_path = pgautomate, pg_temp AS $$
DECLARE
    event bigint;
    nos   bigint[];
    ids   text[];
BEGIN
    INSERT INTO notification_events (organization_id, workflow_id, transaction_id, step_ids, recipients, topics, broadcast,
                                     payload, overrides, tenant_id, attachments, cause, status, fanned_out, finished_at)
    VALUES (organization, workflow, transaction, steps, '[]', '[]', false,
            payload, overrides, tenant, '[]', cause, 'done', jsonb_array_length(recipients), clock_timestamp())
    ON CONFLICT (organization_id, transaction_id) DO NOTHING
    RETURNING notification_events.id INTO event;
    IF event IS NULL THEN
        RETURN NULL;
    END IF;
    PERFORM upsert_subscribers(organization, recipients);
    SELECT array_agg(r.one ->> 'subscriber_id' ORDER BY r.place),
           array_agg((SELECT s.id FROM subscribers s WHERE s.organization_id = organization AND s.subscriber_id = r.one ->> 'subscriber_id'
                         AND s.deleted_at IS NULL) ORDER BY r.place)
      INTO ids, nos FROM jsonb_array_elements(recipients) WITH ORDINALITY r (one, place);
    IF array_position(nos, NULL) IS NOT NULL THEN
        RAISE EXCEPTION 'subscriber "%" was deleted meanwhile', ids[array_position(nos, NULL)];
    END IF;
    PERFORM make_notifications(event, nos, ids, NULL);
    RETURN event;
END $$;
-- +goose StatementEnd
REVOKE EXECUTE ON FUNCTION pgautomate.upsert_subscribers(text, jsonb) FROM PUBLIC;
REVOKE EXECUTE ON FUNCTION pgautomate.accept_event(text, bigint, text, bigint[], jsonb, jsonb, bigint, jsonb, jsonb) FROM PUBLIC;

-- +goose Down
DROP FUNCTION pgautomate.accept_event(text, bigint, text, bigint[], jsonb, jsonb, bigint, jsonb, jsonb);
DROP FUNCTION pgautomate.upsert_subscribers(text, jsonb);
